-- Create a session with its counter and queue; active at once, or pending. Repeating it with the same id changes nothing
-- (a lost commit is safe); an id that is another tenant's is refused, and nothing of that session told.
-- A fork's own numbers follow those of the events that it refers to.
CREATE OR REPLACE FUNCTION asm_create_session(p jsonb, p_limiter text, p_activate boolean DEFAULT true) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE v_at timestamptz := clock_timestamp(); v_id text := p->>'id'; v_tenant text := p->>'tenant_id'; v_events jsonb := '[]';
BEGIN
  INSERT INTO asm_sessions (id, tenant_id, agent_id, status, parent_session_id, provider, model, metadata, context, tags,
                            created_at, updated_at, forked_at)
  VALUES (v_id, v_tenant, p->>'agent_id', CASE WHEN p_activate THEN 'active' ELSE 'pending' END, p->>'parent_session_id', p->>'provider', p->>'model',
          p->'metadata', p->'context', ARRAY(SELECT jsonb_array_elements_text(p->'tags')), v_at, v_at,
          (p->>'forked_at')::bigint)
  ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    PERFORM 1 FROM asm_sessions WHERE id = v_id AND tenant_id = v_tenant;
    IF NOT FOUND THEN RETURN jsonb_build_object('refused', 'id_taken', 'record', 'session', 'id', v_id); END IF;
  ELSE
    INSERT INTO asm_session_sequences (session_id, tenant_id, last_sequence)
    VALUES (v_id, v_tenant, coalesce((p->>'forked_at')::bigint, 0));
    INSERT INTO asm_session_runtime (session_id, tenant_id, max_concurrent_runs, max_queued_runs, limiter)
    VALUES (v_id, v_tenant, (p->>'max_concurrent_runs')::int, (p->>'max_queued_runs')::int, p_limiter);
    v_events := jsonb_build_array(
      asm_emit(v_id, 'session_created', jsonb_strip_nulls(jsonb_build_object(
        'provider', p->'provider', 'parent_session_id', p->'parent_session_id', 'forked_at', p->'forked_at'))));
    IF p_activate THEN v_events := v_events || asm_emit(v_id, 'session_started'); END IF;
    PERFORM asm_audit('session.created', v_tenant, v_id, NULL, jsonb_build_object('agent_id', p->'agent_id'));
  END IF;
  RETURN jsonb_build_object('events', v_events);
END $$;

-- Create a session whose log begins with its parent's events up to p_at (all there are, when null), by reference. The
-- parent's row stays locked, so that its events cannot be removed meanwhile; ranges point at the sessions that wrote the
-- events, so that a fork of a fork reads no longer chain.
CREATE OR REPLACE FUNCTION asm_fork_session(p jsonb, p_limiter text, p_at bigint) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE v_parent text := p->>'parent_session_id'; v_last bigint; v_at bigint; v_inherited bigint; v_created jsonb;
BEGIN
  PERFORM 1 FROM asm_session_runtime WHERE session_id = v_parent AND tenant_id = p->>'tenant_id' FOR UPDATE;
  IF NOT FOUND THEN RETURN jsonb_build_object('refused', 'session_not_found'); END IF;
  SELECT c.last_sequence, coalesce(s.forked_at, 0) INTO v_last, v_inherited
    FROM asm_session_sequences c JOIN asm_sessions s ON s.id = c.session_id WHERE c.session_id = v_parent;
  v_at := coalesce(p_at, v_last);
  IF v_at NOT BETWEEN 1 AND v_last THEN RETURN jsonb_build_object('refused', 'no_such_event', 'latest', v_last); END IF;
  v_created := asm_create_session(p || jsonb_build_object('forked_at', v_at), p_limiter);
  IF v_created ? 'refused' OR v_created->'events' = '[]' THEN RETURN v_created; END IF;  -- the session is there already
  INSERT INTO asm_inherited_events (session_id, tenant_id, first_sequence, last_sequence, source_session_id)
  SELECT p->>'id', p->>'tenant_id', first_sequence, least(last_sequence, v_at), source_session_id
    FROM asm_inherited_events WHERE session_id = v_parent AND first_sequence <= v_at
  UNION ALL
  SELECT p->>'id', p->>'tenant_id', v_inherited + 1, v_at, v_parent WHERE v_at > v_inherited;
  RETURN v_created;
END $$;

-- Change a session's status. p_sources: the statuses from which the lifecycle table allows the verb. Ending a session
-- that still has work is refused, unless the caller says to cancel what is queued; completing it is refused while a run
-- is in flight, cancelling and failing it ask those runs to stop.
CREATE OR REPLACE FUNCTION asm_change_session(
  p_session text, p_tenant text, p_to text, p_sources text[], p_event text, p_cancel_queued boolean, p_data jsonb)
RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE s asm_sessions; v_queued int; v_running int; v_run text; v_events jsonb := '[]'; v_nudges jsonb := '[]';
  v_ends boolean := p_to IN ('completed', 'cancelled', 'failed');
BEGIN
  PERFORM 1 FROM asm_session_runtime WHERE session_id = p_session AND tenant_id = p_tenant FOR UPDATE;
  IF NOT FOUND THEN RETURN jsonb_build_object('refused', 'session_not_found'); END IF;
  SELECT * INTO s FROM asm_sessions WHERE id = p_session;
  IF s.status <> ALL (p_sources) THEN
    RETURN jsonb_build_object('refused', 'invalid_transition', 'from', s.status);
  END IF;
  IF v_ends THEN
    SELECT count(*) INTO v_queued FROM asm_runs WHERE session_id = p_session AND status IN ('pending', 'awaiting_approval');
    SELECT count(*) INTO v_running FROM asm_run_leases WHERE session_id = p_session;
    IF (v_queued > 0 AND NOT p_cancel_queued) OR (v_running > 0 AND (p_to = 'completed' OR NOT p_cancel_queued)) THEN
      RETURN jsonb_build_object('refused', 'invalid_operation', 'queued', v_queued, 'in_flight', v_running);
    END IF;
    FOR v_run IN SELECT id FROM asm_runs WHERE session_id = p_session AND status IN ('pending', 'awaiting_approval')
                  ORDER BY submit_seq, id LOOP
      CONTINUE WHEN NOT EXISTS (SELECT 1 FROM asm_runs WHERE id = v_run AND status IN ('pending', 'awaiting_approval'));
      v_events := v_events || asm_end_run(v_run, 'cancelled', NULL, '{"reason": "session_ended"}');
    END LOOP;
    WITH asked AS (
      UPDATE asm_runs r SET cancel_requested_at = clock_timestamp(), cancel_kind = 'cancel' FROM asm_run_leases l
       WHERE l.session_id = p_session AND r.id = l.run_id AND r.cancel_requested_at IS NULL
      RETURNING l.worker_id, r.id, r.submit_seq)
    SELECT coalesce(jsonb_agg(jsonb_build_array(worker_id, id) ORDER BY submit_seq, id), '[]') INTO v_nudges FROM asked;
    PERFORM asm_audit('run.cancel_requested', p_tenant, p_session, nudge->>1, '{"kind": "cancel"}')
       FROM jsonb_array_elements(v_nudges) nudge;
  END IF;
  UPDATE asm_sessions SET status = p_to, updated_at = clock_timestamp() WHERE id = p_session AND status = ANY (p_sources);
  IF FOUND THEN  -- a one-shot's session has ended with its run just above
    v_events := v_events || asm_emit(p_session, p_event, p_data);
    PERFORM asm_audit('session.' || p_to, p_tenant, p_session, NULL, '{}');
  END IF;
  RETURN jsonb_build_object('events', v_events, 'nudges', v_nudges, 'wake', asm_successors(p_session));
END $$;
