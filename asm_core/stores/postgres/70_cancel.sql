-- Cancel a run. The session lock makes cancel and claim take turns: a queued run ends here and never reaches a
-- provider; for a running one the wish is stored (first one wins) and its holder told; a terminal one stays as it is.
-- p_approval: what is to be approved before the work may go on; stated before the run's end, whoever comes to write that.
-- Callers with three arguments (a version before) find the new one, too.
DROP FUNCTION IF EXISTS asm_cancel(text, text, text);
CREATE OR REPLACE FUNCTION asm_cancel(p_run text, p_tenant text, p_kind text, p_approval jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE r asm_runs; v_session text; v_events jsonb := '[]'; v_first boolean; v_wake jsonb := '[]';
BEGIN
  SELECT session_id INTO v_session FROM asm_runs WHERE id = p_run AND tenant_id = p_tenant;
  IF NOT FOUND THEN RETURN NULL; END IF;
  PERFORM 1 FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  SELECT * INTO r FROM asm_runs WHERE id = p_run;
  v_first := r.status IN ('pending', 'awaiting_approval', 'running') AND r.cancel_requested_at IS NULL;
  IF v_first AND p_approval IS NOT NULL THEN
    v_events := v_events || asm_emit(v_session, 'tool_approval_requested', p_approval, p_run, NULL, nullif(r.attempt, 0),
                                     coalesce(r.provider, r.options->>'provider'));
  END IF;
  IF r.status IN ('pending', 'awaiting_approval') THEN
    v_events := v_events || asm_end_run(p_run, 'cancelled', NULL, asm_cancel_reason(p_kind));
    v_wake := asm_successors(v_session);
    r.status := 'cancelled';
  ELSIF v_first THEN
    UPDATE asm_runs SET cancel_requested_at = clock_timestamp(), cancel_kind = p_kind WHERE id = p_run;
    PERFORM asm_audit('run.cancel_requested', p_tenant, v_session, p_run, jsonb_build_object('kind', p_kind));
  END IF;
  RETURN jsonb_build_object('session_id', v_session, 'status', r.status, 'events', v_events,
    'worker_id', CASE r.status WHEN 'running' THEN r.worker_id END, 'wake', v_wake);
END $$;
