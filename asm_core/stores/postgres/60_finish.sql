-- End a run on behalf of its holder. The lease is deleted first: from here on nobody can append for this run, so the
-- terminal event is its last. A cancel that was committed before wins over whatever the provider said.
-- Repeated after an unknown commit it finds the run terminal under its own fence, and says so.
CREATE OR REPLACE FUNCTION asm_finish(p_run text, p_fence bigint, p jsonb) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE l asm_run_leases; r asm_runs; v_session text; v_status text := p->>'status'; v_data jsonb := p->'data';
  v_error jsonb := nullif(p->'error', 'null'); v_events jsonb;
BEGIN
  SELECT session_id INTO v_session FROM asm_runs WHERE id = p_run;
  PERFORM 1 FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  DELETE FROM asm_run_leases WHERE run_id = p_run AND fence = p_fence RETURNING * INTO l;
  IF NOT FOUND THEN RETURN asm_finished_before(p_run, p_fence); END IF;
  SELECT * INTO r FROM asm_runs WHERE id = p_run;
  IF r.cancel_requested_at IS NOT NULL AND v_status <> 'cancelled' THEN
    v_data := v_data || jsonb_build_object('completed_after_cancel', v_status = 'completed');
    v_status := 'cancelled';
    v_error := NULL;
  END IF;
  IF v_status = 'cancelled' THEN v_data := v_data || asm_cancel_reason(r.cancel_kind); END IF;
  IF p->'metadata' <> '{}' THEN  -- a terminal run's row does not change any more
    UPDATE asm_runs SET metadata = metadata || (p->'metadata') WHERE id = p_run;
  END IF;
  v_events := asm_end_run(p_run, v_status, v_error, v_data, nullif(p->'output', 'null'), p_fence,
                          p->'provider_metadata', (p->>'turn_count')::int);
  RETURN jsonb_build_object('status', v_status, 'events', v_events, 'wake', asm_successors(v_session, l.limiter));
END $$;

-- The answer to a finish that finds no lease: done already under this fence, or lost (null).
CREATE OR REPLACE FUNCTION asm_finished_before(p_run text, p_fence bigint) RETURNS jsonb
LANGUAGE sql SET enable_seqscan = off AS $$
  SELECT jsonb_build_object('status', r.status, 'wake', '[]'::jsonb, 'events', (
           SELECT coalesce(jsonb_agg(asm_event_json(e)), '[]') FROM asm_events e
            WHERE e.session_id = r.session_id AND e.run_id = p_run AND e.fence = p_fence
              AND e.type IN ('run_completed', 'run_failed', 'run_cancelled', 'run_timeout')))
    FROM asm_runs r
   WHERE r.id = p_run AND r.fence = p_fence AND r.status IN ('completed', 'failed', 'cancelled', 'timeout')
$$;

-- Take a run from its holder without a result: the holder hands it back (shutdown, a lease it does not know), or the
-- sweeper takes it from a dead worker. In this order: a requested cancel is honoured; a run that never started goes
-- back to its place, up to p_max_claims; a started one may start again if its options allow; else it has failed, as has
-- one that has no place in the queue to go back to.
-- p_from_lost: act only if the holder was declared dead (the sweeper's guard; marking is a transaction of its own).
CREATE OR REPLACE FUNCTION asm_release(p_run text, p_fence bigint, p_reason text, p_max_claims int, p_from_lost boolean)
RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE l asm_run_leases; r asm_runs; v_session text; v_status text; v_error jsonb; v_events jsonb := '[]';
BEGIN
  SELECT session_id INTO v_session FROM asm_runs WHERE id = p_run;
  PERFORM 1 FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  DELETE FROM asm_run_leases x WHERE x.run_id = p_run AND x.fence = p_fence
     AND (NOT p_from_lost OR EXISTS (SELECT 1 FROM asm_workers w WHERE w.id = x.worker_id AND w.lost_at IS NOT NULL))
  RETURNING x.* INTO l;
  IF NOT FOUND THEN RETURN NULL; END IF;
  SELECT * INTO r FROM asm_runs WHERE id = p_run;
  v_status := CASE
    WHEN r.cancel_requested_at IS NOT NULL THEN 'cancelled'
    WHEN r.deadline_at <= clock_timestamp() THEN 'timeout'
    WHEN r.submit_seq IS NULL THEN 'failed'
    WHEN l.started_at IS NULL AND r.claims < p_max_claims THEN 'pending'
    WHEN l.started_at IS NOT NULL AND r.options->>'on_worker_lost' <> 'fail'
         AND r.attempt < (r.options->>'max_attempts')::int THEN 'pending'
    ELSE 'failed' END;
  IF v_status = 'pending' THEN
    UPDATE asm_runs SET status = 'pending', worker_id = NULL WHERE id = p_run AND status = 'running';
    PERFORM asm_audit('run.requeued', r.tenant_id, v_session, p_run, jsonb_build_object('reason', p_reason));
  ELSE
    v_error := CASE v_status
      WHEN 'failed' THEN jsonb_build_object('code', 'internal_error', 'message', CASE p_reason
          WHEN 'worker_lost' THEN 'the worker that executed the run died'
          WHEN 'worker_shutdown' THEN 'the worker that executed the run shut down'
          ELSE 'the run was given up by its worker' END,
        'details', jsonb_build_object('reason', p_reason, 'worker_id', l.worker_id, 'claims', r.claims, 'attempt', r.attempt))
      WHEN 'timeout' THEN jsonb_build_object('code', 'timeout', 'message', 'the run''s time limit has passed',
        'details', jsonb_build_object('reason', p_reason, 'timeout_ms', r.options->'timeout_ms')) END;
    v_events := asm_end_run(p_run, v_status, v_error, CASE v_status
      WHEN 'cancelled' THEN asm_cancel_reason(r.cancel_kind) ELSE '{}' END, NULL, p_fence);
  END IF;
  RETURN jsonb_build_object('status', v_status, 'events', v_events, 'wake', asm_successors(v_session, l.limiter));
END $$;
