-- Shared by the transactions below; never called from outside.
--
-- Lock order, the same for everyone: worker row > session's runtime row > limiter row > run lease > sequence counter.
-- Appends skip the first three: they take leases in (session, run) order, then counters in session order. Successors
-- lock the limiter last of all, which is safe because whoever holds it waits for nothing.
-- A pending run with a `submit_seq` waits in its session's queue; one without is started by whoever asked for it.
-- `enable_seqscan = off` on each function: plpgsql keeps the plan it made while the tables were small.

CREATE OR REPLACE FUNCTION asm_instant(t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- The wire form of a stored event.
CREATE OR REPLACE FUNCTION asm_event_json(e asm_events) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object(
    'id', e.id, 'type', e.type, 'timestamp', asm_instant(e."timestamp"), 'session_id', e.session_id,
    'run_id', e.run_id, 'sequence_number', e.sequence_number, 'data', e.data, 'metadata', e.metadata,
    'schema_version', e.schema_version, 'provider', e.provider, 'correlation_id', e.correlation_id,
    'attempt', e.attempt)
$$;

-- One entry of the audit log, at the instant it is written: behind the session's lock, so that times rise with ids.
CREATE OR REPLACE FUNCTION asm_audit(p_action text, p_tenant text, p_session text, p_run text, p_data jsonb)
RETURNS void LANGUAGE sql AS $$
  INSERT INTO asm_audit_log (tenant_id, at, action, session_id, run_id, data)
  VALUES (p_tenant, clock_timestamp(), p_action, p_session, p_run, coalesce(p_data, '{}'))
$$;

-- Without the keys that say nothing; what stands deeper is somebody's own words.
CREATE OR REPLACE FUNCTION asm_without_nulls(p jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(p) WHERE value <> 'null'
$$;

-- Store one event that the database itself states. The counter row stays locked until commit, so that commit order is
-- sequence order. The id derives from the number: the event exists exactly once because the number does.
CREATE OR REPLACE FUNCTION asm_emit(
  p_session text, p_type text, p_data jsonb DEFAULT '{}', p_run text DEFAULT NULL,
  p_fence bigint DEFAULT NULL, p_attempt int DEFAULT NULL, p_provider text DEFAULT NULL)
RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE e asm_events; v_seq bigint; v_tenant text;
BEGIN
  UPDATE asm_session_sequences SET last_sequence = last_sequence + 1, updated_at = clock_timestamp()
   WHERE session_id = p_session RETURNING last_sequence, tenant_id INTO v_seq, v_tenant;
  INSERT INTO asm_events AS new (id, tenant_id, type, "timestamp", session_id, run_id, fence, attempt,
                                 sequence_number, data, provider, correlation_id, stored_at)
  SELECT 'evt_' || md5(p_session || '|' || v_seq), v_tenant, p_type, clock_timestamp(), p_session, p_run, p_fence,
         p_attempt, v_seq, p_data, coalesce(p_provider, s.provider), s.metadata->>'correlation_id', clock_timestamp()
    FROM asm_sessions s WHERE s.id = p_session
  RETURNING new.* INTO e;
  RETURN asm_event_json(e);
END $$;

-- What `run_cancelled` says of why.
CREATE OR REPLACE FUNCTION asm_cancel_reason(p_kind text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_kind WHEN 'interrupt' THEN '{"reason": "interrupted"}'::jsonb
                     WHEN 'approval' THEN '{"reason": "approval_requested"}' ELSE '{}' END
$$;

-- Slots of a session in use: a lease each, and a parked run keeps its place in the conversation.
CREATE OR REPLACE FUNCTION asm_slots_used(p_session text) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT (SELECT count(*) FROM asm_run_leases WHERE session_id = p_session)
       + (SELECT count(*) FROM asm_runs WHERE session_id = p_session AND status = 'awaiting_approval')
$$;

-- The wake rule: whoever leaves pending runs and a free slot behind is followed by one wakeup. Under a limiter the
-- session lines up with those that wait for it, and the free slots go to the least recently served, one wakeup per slot
-- (no herd, no starvation). The limiter row is locked against a claim that is just finding it full: either that claim
-- comes first and its mark is seen here, or it comes later and sees the slot that the caller has freed.
-- Caller holds the session's runtime row lock, and has made all its changes. Whoever holds the limiter row waits for
-- nobody, so it may come last here.
CREATE OR REPLACE FUNCTION asm_successors(p_session text, p_limiter text DEFAULT NULL)
RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE rt asm_session_runtime; v_limiter text; v_claimable boolean; v_free bigint; v_wake jsonb;
  v_most bigint := 200;  -- wakeups at once, where the limiter is open
BEGIN
  SELECT * INTO rt FROM asm_session_runtime WHERE session_id = p_session;
  v_limiter := coalesce(p_limiter, CASE WHEN rt.limiter_waiting_since IS NOT NULL THEN rt.limiter END);
  v_claimable := asm_slots_used(p_session) < rt.max_concurrent_runs
    AND EXISTS (SELECT 1 FROM asm_sessions s WHERE s.id = p_session AND s.status IN ('pending', 'active'))
    AND EXISTS (SELECT 1 FROM asm_runs r WHERE r.session_id = p_session AND r.status = 'pending' AND r.submit_seq IS NOT NULL);
  IF v_limiter IS NULL THEN
    UPDATE asm_session_runtime SET last_wake_at = clock_timestamp() WHERE session_id = p_session AND v_claimable;
    RETURN CASE WHEN FOUND THEN jsonb_build_array(p_session) ELSE '[]' END;
  END IF;
  SELECT max_parallel_runs INTO v_free FROM asm_limiters WHERE name = v_limiter FOR UPDATE;
  v_free := v_free - (SELECT count(*) FROM asm_run_leases WHERE limiter = v_limiter);  -- null: no limit
  UPDATE asm_session_runtime SET limiter_waiting_since =
         CASE WHEN v_claimable THEN coalesce(limiter_waiting_since, clock_timestamp()) END
   WHERE session_id = p_session;
  WITH next AS (
    SELECT w.session_id FROM asm_session_runtime w
     WHERE w.limiter = v_limiter AND w.limiter_waiting_since IS NOT NULL
     ORDER BY w.last_served_at NULLS FIRST, w.limiter_waiting_since
     LIMIT greatest(0, least(v_free, v_most)) FOR UPDATE SKIP LOCKED),
  woken AS (
    UPDATE asm_session_runtime w SET limiter_waiting_since = NULL, last_wake_at = clock_timestamp()
      FROM next WHERE w.session_id = next.session_id RETURNING w.session_id)
  SELECT coalesce(jsonb_agg(session_id), '[]') INTO v_wake FROM woken;
  RETURN v_wake;
END $$;

-- End a run: the row, its one terminal event, its session when the run owns it. The only place where a run becomes
-- terminal. Usage and cost are the sum over the stored usage events of all attempts: what was spent was spent.
-- Caller holds the session's runtime row lock and has deleted the run's lease, so nobody can write after this event.
CREATE OR REPLACE FUNCTION asm_end_run(
  p_run text, p_status text, p_error jsonb DEFAULT NULL, p_data jsonb DEFAULT '{}', p_output jsonb DEFAULT NULL,
  p_fence bigint DEFAULT NULL, p_provider_metadata jsonb DEFAULT '{}', p_turns int DEFAULT 0)
RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE r asm_runs; v_usage jsonb; v_cost numeric; v_data jsonb; v_events jsonb; v_session_status text; v_handle jsonb;
  v_run text;
BEGIN
  SELECT coalesce(jsonb_object_agg(key, total), '{}') INTO v_usage FROM (
    SELECT kv.key, sum(kv.value::numeric) AS total FROM asm_events e, jsonb_each(e.data) kv
     WHERE e.run_id = p_run AND e.type = 'token_usage_updated' AND jsonb_typeof(kv.value) = 'number'
       AND kv.key LIKE '%\_tokens' GROUP BY kv.key) sums;
  SELECT sum((e.data->>'cost_usd')::numeric) INTO v_cost FROM asm_events e
   WHERE e.run_id = p_run AND e.type = 'token_usage_updated' AND jsonb_typeof(e.data->'cost_usd') = 'number';
  UPDATE asm_runs SET status = p_status, ended_at = clock_timestamp(), output = p_output, error = p_error,
         token_usage = v_usage, cost_usd = v_cost, turn_count = p_turns,
         provider_metadata = provider_metadata || p_provider_metadata
   WHERE id = p_run AND status IN ('pending', 'running', 'awaiting_approval') RETURNING * INTO STRICT r;
  v_data := p_data || asm_without_nulls(jsonb_build_object(
    'error_code', p_error->'code', 'error_message', p_error->'message',
    'provider_error', p_error->'provider_error', 'details', p_error->'details',
    'token_usage', nullif(v_usage, '{}'), 'cost_usd', v_cost));
  v_events := jsonb_build_array(asm_emit(
    r.session_id, CASE p_status WHEN 'timeout' THEN 'run_timeout' ELSE 'run_' || p_status END, v_data, r.id, p_fence,
    nullif(r.attempt, 0), coalesce(r.provider, r.options->>'provider')));
  PERFORM asm_audit('run.' || p_status, r.tenant_id, r.session_id, r.id,
                    jsonb_build_object('attempt', r.attempt, 'error_code', p_error->'code'));
  v_handle := jsonb_strip_nulls(jsonb_build_object(
    'provider_session_id', p_provider_metadata->'provider_session_id', 'model', p_provider_metadata->'model'));
  IF v_handle <> '{}' AND r.provider IS NOT NULL THEN
    UPDATE asm_sessions SET updated_at = clock_timestamp(), metadata = metadata || jsonb_build_object(
        'provider_sessions', coalesce(metadata->'provider_sessions', '{}') || jsonb_build_object(
          r.provider, coalesce(metadata->'provider_sessions'->r.provider, '{}') || v_handle))
     WHERE id = r.session_id;
  END IF;
  IF r.owns_session THEN
    v_session_status := CASE p_status WHEN 'completed' THEN 'completed' WHEN 'cancelled' THEN 'cancelled' ELSE 'failed' END;
    UPDATE asm_sessions SET status = v_session_status, updated_at = clock_timestamp()
     WHERE id = r.session_id AND status IN ('pending', 'active', 'paused');
    IF FOUND THEN  -- what was queued behind the one-shot meanwhile would wait for ever
      FOR v_run IN SELECT id FROM asm_runs WHERE session_id = r.session_id AND status IN ('pending', 'awaiting_approval')
                    ORDER BY submit_seq, id LOOP
        v_events := v_events || asm_end_run(v_run, 'cancelled', NULL, '{"reason": "session_ended"}');
      END LOOP;
      v_events := v_events || asm_emit(r.session_id, 'session_' || v_session_status,
        CASE v_session_status WHEN 'failed' THEN v_data - 'token_usage' - 'cost_usd' ELSE '{}' END);
      PERFORM asm_audit('session.' || v_session_status, r.tenant_id, r.session_id, NULL, '{}');
    END IF;
  END IF;
  RETURN v_events;
END $$;
