-- Queue a run. One transaction: session lock > idempotency > state > bound > place in the queue > row > audit.
--
-- The session's runtime row is locked first, so submits, claims, finishes and cancels of one session are serial and
-- the bound is exact. The idempotency key is looked at before every other check, so that a repeated request succeeds
-- even when the queue is full by now or the session has ended. A one-shot brings its session along; two racing
-- one-shots with one key meet on the key's row, and the loser sees the winner's.
CREATE OR REPLACE FUNCTION asm_submit(p jsonb, p_limiter text) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  rt asm_session_runtime; k asm_idempotency_keys; v_status text; v_pending bigint; v_used bigint; v_events jsonb := '[]';
  v_created jsonb; v_owner text;
  v_tenant text := p->>'tenant_id'; v_key text := p->>'idempotency_key'; v_once boolean := p->'new_session' <> 'null';
  v_queued boolean := (p->>'queued')::boolean;
  v_scope text := CASE WHEN p->'new_session' <> 'null' THEN 'one-shot' ELSE p->>'session_id' END;
  v_session text := p->>'session_id'; v_run text := p->>'run_id'; v_at timestamptz;
BEGIN
  IF NOT v_once THEN
    SELECT * INTO rt FROM asm_session_runtime WHERE session_id = v_session AND tenant_id = v_tenant FOR UPDATE;
    IF NOT FOUND THEN RETURN jsonb_build_object('refused', 'session_not_found'); END IF;
  END IF;
  IF v_key IS NOT NULL THEN
    INSERT INTO asm_idempotency_keys (tenant_id, scope, key, request_hash, session_id, run_id)
    SELECT v_tenant, v_scope, v_key, p->>'request_hash', v_session, v_run
     WHERE NOT EXISTS (SELECT 1 FROM asm_idempotency_keys WHERE tenant_id = v_tenant AND scope = v_scope AND key = v_key)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      SELECT * INTO k FROM asm_idempotency_keys WHERE tenant_id = v_tenant AND scope = v_scope AND key = v_key;
      IF k.request_hash <> p->>'request_hash' THEN RETURN jsonb_build_object('refused', 'already_exists', 'run_id', k.run_id); END IF;
      RETURN CASE WHEN k.run_id = v_run THEN asm_submitted_before(v_run) ELSE asm_submitted(k.run_id, true) END;
    END IF;
  ELSE
    SELECT tenant_id INTO v_owner FROM asm_runs WHERE id = v_run;
    IF v_owner = v_tenant THEN RETURN asm_submitted_before(v_run); END IF;
    IF FOUND THEN RETURN jsonb_build_object('refused', 'id_taken', 'record', 'run', 'id', v_run); END IF;
  END IF;
  IF v_once THEN
    v_created := asm_create_session(p->'new_session', p_limiter);
    IF v_created ? 'refused' THEN
      DELETE FROM asm_idempotency_keys WHERE tenant_id = v_tenant AND scope = v_scope AND key = v_key;
      RETURN v_created;
    END IF;
    v_events := v_created->'events';
    SELECT * INTO rt FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  END IF;
  SELECT CASE WHEN deleted_at IS NULL THEN status ELSE 'deleted' END INTO v_status FROM asm_sessions WHERE id = v_session;
  IF v_status NOT IN ('pending', 'active', 'paused') THEN
    DELETE FROM asm_idempotency_keys WHERE tenant_id = v_tenant AND scope = v_scope AND key = v_key;
    RETURN jsonb_build_object('refused', 'invalid_operation', 'status', v_status);
  END IF;
  SELECT count(*) INTO v_pending FROM asm_runs r WHERE session_id = v_session AND r.status = 'pending' AND r.submit_seq IS NOT NULL;
  v_used := asm_slots_used(v_session);
  IF v_queued AND v_pending + v_used >= rt.max_concurrent_runs + rt.max_queued_runs THEN
    DELETE FROM asm_idempotency_keys WHERE tenant_id = v_tenant AND scope = v_scope AND key = v_key;
    RETURN jsonb_build_object('refused', 'max_runs_exceeded', 'queued', v_pending, 'in_flight', v_used,
      'max_queued_runs', rt.max_queued_runs, 'max_concurrent_runs', rt.max_concurrent_runs);
  END IF;
  UPDATE asm_session_runtime SET submit_seq = submit_seq + v_queued::int WHERE session_id = v_session
  RETURNING * INTO rt;
  v_at := clock_timestamp();
  INSERT INTO asm_runs (id, tenant_id, session_id, status, input, options, metadata, provider, submit_seq, created_at,
                        queue_deadline_at, owns_session)
  VALUES (v_run, v_tenant, v_session, 'pending', p->'input', p->'options', p->'metadata', p->'options'->>'provider',
          CASE WHEN v_queued THEN rt.submit_seq END, v_at,
          v_at + (p->'options'->>'queue_timeout_ms')::bigint * interval '1 ms', v_once);
  PERFORM asm_audit('run.submitted', v_tenant, v_session, v_run, jsonb_build_object('provider', p->'options'->'provider'));
  RETURN asm_submitted(v_run, false) || jsonb_build_object('events', v_events, 'wake', asm_successors(v_session));
END $$;

-- The answer to a submit. position: the place in the session's queue, from 1; null once claimed.
CREATE OR REPLACE FUNCTION asm_submitted(p_run text, p_replayed boolean) RETURNS jsonb
LANGUAGE sql SET enable_seqscan = off AS $$
  SELECT jsonb_build_object('run_id', r.id, 'session_id', r.session_id, 'status', r.status, 'replayed', p_replayed,
    'position', CASE WHEN r.status = 'pending' AND r.submit_seq IS NOT NULL THEN (SELECT count(*) FROM asm_runs q
      WHERE q.session_id = r.session_id AND q.status = 'pending' AND q.submit_seq IS NOT NULL AND q.submit_seq <= r.submit_seq) END)
    FROM asm_runs r WHERE r.id = p_run
$$;

-- This very submit, repeated after an unknown commit: not a replay to the caller, and the wakeup may have been lost.
CREATE OR REPLACE FUNCTION asm_submitted_before(p_run text) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE v_session text;
BEGIN
  SELECT session_id INTO v_session FROM asm_runs WHERE id = p_run;
  PERFORM 1 FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  RETURN asm_submitted(p_run, false) || jsonb_build_object('wake', asm_successors(v_session));
END $$;
