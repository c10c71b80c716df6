-- Give the head of a session's queue to a worker.
--
-- The worker row is locked first (FOR KEY SHARE: beside beats, against the sweeper's mark), so a worker that was
-- declared dead cannot claim. Leases that nobody has swept yet count: slots are never over-committed by guesswork.
CREATE OR REPLACE FUNCTION asm_claim(p_session text, p_worker text) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE rt asm_session_runtime; s asm_sessions; r asm_runs;
BEGIN
  PERFORM 1 FROM asm_workers WHERE id = p_worker AND lost_at IS NULL FOR KEY SHARE;
  IF NOT FOUND THEN RETURN '{"reason": "lost"}'; END IF;
  SELECT * INTO rt FROM asm_session_runtime WHERE session_id = p_session FOR UPDATE;
  IF NOT FOUND THEN RETURN '{"reason": "empty"}'; END IF;
  SELECT * INTO s FROM asm_sessions WHERE id = p_session;
  IF s.status NOT IN ('pending', 'active') THEN  -- the wakeup was spent on nothing: hand a limiter's slot on
    RETURN jsonb_build_object('reason', 'paused', 'wake', asm_successors(p_session, rt.limiter));
  END IF;
  IF asm_slots_used(p_session) >= rt.max_concurrent_runs THEN RETURN '{"reason": "full"}'; END IF;
  SELECT * INTO r FROM asm_runs WHERE session_id = p_session AND status = 'pending' AND submit_seq IS NOT NULL
   ORDER BY submit_seq LIMIT 1;
  IF NOT FOUND THEN  -- as above
    RETURN jsonb_build_object('reason', 'empty', 'wake', asm_successors(p_session, rt.limiter));
  END IF;
  RETURN asm_give(p_worker, rt, s, r);
END $$;

-- Give one particular run to a worker, whatever its place: runs outside the queue, and a queue's head.
CREATE OR REPLACE FUNCTION asm_claim_run(p_run text, p_tenant text, p_worker text) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE rt asm_session_runtime; s asm_sessions; r asm_runs; v_session text; v_head bigint;
BEGIN
  PERFORM 1 FROM asm_workers WHERE id = p_worker AND lost_at IS NULL FOR KEY SHARE;
  IF NOT FOUND THEN RETURN '{"reason": "lost"}'; END IF;
  SELECT session_id INTO v_session FROM asm_runs WHERE id = p_run AND tenant_id = p_tenant;
  IF NOT FOUND THEN RETURN NULL; END IF;
  SELECT * INTO rt FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  SELECT * INTO s FROM asm_sessions WHERE id = v_session;
  SELECT * INTO r FROM asm_runs WHERE id = p_run;
  IF r.status <> 'pending' THEN RETURN jsonb_build_object('reason', r.status); END IF;
  IF s.status NOT IN ('pending', 'active') THEN RETURN jsonb_build_object('reason', 'session', 'status', s.status); END IF;
  SELECT min(submit_seq) INTO v_head FROM asm_runs WHERE session_id = v_session AND status = 'pending';
  IF r.submit_seq > v_head THEN RETURN '{"reason": "queue"}'; END IF;
  IF asm_slots_used(v_session) >= rt.max_concurrent_runs THEN
    RETURN jsonb_build_object('reason', 'full', 'max_concurrent_runs', rt.max_concurrent_runs);
  END IF;
  RETURN asm_give(p_worker, rt, s, r);
END $$;

-- The run becomes the worker's, unless its limiter is full. Caller holds the session's runtime row lock.
CREATE OR REPLACE FUNCTION asm_give(p_worker text, rt asm_session_runtime, s asm_sessions, r asm_runs) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE v_cap int; v_at timestamptz;
BEGIN
  IF rt.limiter IS NOT NULL THEN
    SELECT max_parallel_runs INTO v_cap FROM asm_limiters WHERE name = rt.limiter FOR UPDATE;
    IF (SELECT count(*) FROM asm_run_leases WHERE limiter = rt.limiter) >= v_cap THEN
      UPDATE asm_session_runtime SET limiter_waiting_since = coalesce(limiter_waiting_since, clock_timestamp())
       WHERE session_id = s.id;
      RETURN '{"reason": "limited"}';
    END IF;
  END IF;
  v_at := clock_timestamp();
  UPDATE asm_session_runtime SET fence_seq = fence_seq + 1, last_served_at = v_at, limiter_waiting_since = NULL
   WHERE session_id = s.id RETURNING * INTO rt;
  UPDATE asm_runs SET status = 'running', claims = claims + 1, claimed_at = v_at, worker_id = p_worker,
         fence = rt.fence_seq, first_fence = coalesce(first_fence, rt.fence_seq)
   WHERE id = r.id AND status = 'pending' RETURNING * INTO STRICT r;
  INSERT INTO asm_run_leases (run_id, tenant_id, session_id, limiter, fence, worker_id, claimed_at)
  VALUES (r.id, r.tenant_id, s.id, rt.limiter, rt.fence_seq, p_worker, v_at);
  PERFORM asm_audit('run.claimed', r.tenant_id, s.id, r.id,
                    jsonb_build_object('worker_id', p_worker, 'fence', rt.fence_seq));
  RETURN jsonb_build_object('fence', rt.fence_seq, 'run', to_jsonb(r), 'wake', asm_successors(s.id),
    'session', to_jsonb(s) || jsonb_build_object('max_concurrent_runs', rt.max_concurrent_runs,
                                                 'max_queued_runs', rt.max_queued_runs));
END $$;

-- The start mark, immediately before the provider is called. Everything before it is safe to repeat; after it a run's
-- effects may have happened. The deadline counts from the first attempt's mark; the wait in the queue is over for good.
CREATE OR REPLACE FUNCTION asm_start(p_run text, p_fence bigint) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE r asm_runs; v_at timestamptz; v_first bigint; v_last bigint; v_fresh boolean;
BEGIN
  SELECT started_at IS NULL INTO v_fresh FROM asm_run_leases WHERE run_id = p_run AND fence = p_fence FOR UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  v_at := clock_timestamp();
  UPDATE asm_run_leases SET started_at = coalesce(started_at, v_at) WHERE run_id = p_run AND fence = p_fence;
  UPDATE asm_runs SET started_at = coalesce(started_at, v_at), attempt = attempt + v_fresh::int,
         deadline_at = coalesce(deadline_at, v_at + (options->>'timeout_ms')::bigint * interval '1 ms'),
         queue_deadline_at = NULL
   WHERE id = p_run RETURNING * INTO STRICT r;
  IF r.attempt > 1 THEN
    SELECT min(sequence_number), max(sequence_number) INTO v_first, v_last FROM asm_events
     WHERE session_id = r.session_id AND run_id = p_run AND fence < p_fence;
  END IF;
  RETURN jsonb_build_object('attempt', r.attempt, 'cancel_kind', r.cancel_kind,
    'remaining_ms', greatest(0, floor(extract(epoch FROM r.deadline_at - v_at) * 1000))::bigint,
    'first', v_first, 'last', v_last);
END $$;
