-- Repairs. Each function is a transaction of its own; everything is derived from state, so any pass heals anything.

-- Open a pass, and declare dead who has not beaten for p_ttl. Whoever moves last_pass_at does the pass: no session-level
-- lock that would outlive a dead node. If the last pass is older than three intervals the store itself was away; then
-- nobody is marked for one ttl, so that an outage does not expire a healthy fleet.
-- Marking comes first and alone: only once lost_at stands (claims and beats respect it) are leases taken away.
CREATE OR REPLACE FUNCTION asm_sweep_begin(p_interval interval, p_ttl interval, p_now timestamptz DEFAULT NULL)
RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE v_now timestamptz := coalesce(p_now, clock_timestamp()); v_last timestamptz; v_quiet timestamptz; v_lost jsonb := '[]';
BEGIN
  SELECT last_pass_at, quiet_until INTO v_last, v_quiet FROM asm_sweeper
   WHERE id = 1 AND last_pass_at < v_now - p_interval FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN NULL; END IF;
  IF v_last < v_now - 3 * p_interval THEN v_quiet := v_now + p_ttl; END IF;
  UPDATE asm_sweeper SET last_pass_at = v_now, quiet_until = v_quiet WHERE id = 1;
  IF v_quiet IS NULL OR v_now > v_quiet THEN
    WITH silent AS (
      SELECT id FROM asm_workers WHERE lost_at IS NULL AND last_seen < v_now - p_ttl ORDER BY id FOR UPDATE),
    marked AS (UPDATE asm_workers w SET lost_at = v_now FROM silent WHERE w.id = silent.id RETURNING w.id)
    SELECT coalesce(jsonb_agg(id), '[]') INTO v_lost FROM marked;
  END IF;
  RETURN jsonb_build_object('lost', v_lost);
END $$;

-- What a pass has to decide, run by run: leases of dead workers, and pending runs whose time in the queue is over.
CREATE OR REPLACE FUNCTION asm_sweep_due(p_now timestamptz DEFAULT NULL) RETURNS jsonb
LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object(
    'leases', (SELECT coalesce(jsonb_agg(jsonb_build_array(l.run_id, l.fence)), '[]') FROM asm_run_leases l
                 JOIN asm_workers w ON w.id = l.worker_id WHERE w.lost_at IS NOT NULL),
    'expired', (SELECT coalesce(jsonb_agg(id), '[]') FROM asm_runs
                 WHERE status = 'pending' AND queue_deadline_at < coalesce(p_now, clock_timestamp())),
    'overdue', (SELECT coalesce(jsonb_agg(jsonb_build_array(l.run_id, l.fence)), '[]') FROM asm_run_leases l
                  JOIN asm_runs r ON r.id = l.run_id
                 WHERE r.deadline_at < coalesce(p_now, clock_timestamp()) - interval '60 s'))
$$;

-- A pending run that waited longer than its queue timeout.
CREATE OR REPLACE FUNCTION asm_expire(p_run text) RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE r asm_runs; v_session text;
BEGIN
  SELECT session_id INTO v_session FROM asm_runs WHERE id = p_run;
  PERFORM 1 FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  SELECT * INTO r FROM asm_runs WHERE id = p_run AND status = 'pending' AND queue_deadline_at < clock_timestamp();
  IF NOT FOUND THEN RETURN NULL; END IF;
  RETURN jsonb_build_object('status', 'timeout', 'wake', '[]'::jsonb, 'events', asm_end_run(p_run, 'timeout', jsonb_build_object(
    'code', 'timeout', 'message', 'the run waited in its queue longer than its queue timeout',
    'details', jsonb_build_object('reason', 'queue_timeout', 'queue_timeout_ms', r.options->'queue_timeout_ms'))));
END $$;

-- Sessions with work, a free slot and no recent wakeup; at most as many as the fleet has free slots, so that recovery
-- never floods it. SKIP LOCKED: a session that is being served needs no help.
CREATE OR REPLACE FUNCTION asm_sweep_wake(p_stale interval, p_most int, p_now timestamptz DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE v_now timestamptz := coalesce(p_now, clock_timestamp()); v_free bigint; v_wake jsonb;
BEGIN
  SELECT sum(w.slots - (SELECT count(*) FROM asm_run_leases l WHERE l.worker_id = w.id)) INTO v_free
    FROM asm_workers w WHERE w.lost_at IS NULL AND NOT w.draining;  -- what a draining one holds takes no slot of others
  IF coalesce(v_free, 0) <= 0 THEN RETURN '[]'; END IF;
  WITH stale AS (
    SELECT rt.session_id FROM asm_session_runtime rt JOIN asm_sessions s ON s.id = rt.session_id
     WHERE rt.session_id IN (SELECT DISTINCT session_id FROM asm_runs r WHERE r.status = 'pending' AND r.submit_seq IS NOT NULL)
       AND s.status IN ('pending', 'active') AND coalesce(rt.last_wake_at, 'epoch') < v_now - p_stale
       AND asm_slots_used(rt.session_id) < rt.max_concurrent_runs
     ORDER BY rt.last_wake_at NULLS FIRST LIMIT least(v_free, p_most) FOR UPDATE OF rt SKIP LOCKED),
  woken AS (
    UPDATE asm_session_runtime rt SET last_wake_at = v_now, limiter_waiting_since = NULL
      FROM stale WHERE rt.session_id = stale.session_id RETURNING rt.session_id)
  SELECT coalesce(jsonb_agg(session_id), '[]') INTO v_wake FROM woken;
  RETURN v_wake;
END $$;
