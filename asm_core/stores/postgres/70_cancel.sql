-- Cancel a run. The session lock makes cancel and claim take turns: a queued run ends here and never reaches a
-- provider; for a running one the wish is stored (first one wins) and its holder told; a terminal one stays as it is.
CREATE OR REPLACE FUNCTION asm_cancel(p_run text, p_tenant text, p_kind text) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE r asm_runs; v_session text; v_events jsonb := '[]';
BEGIN
  SELECT session_id INTO v_session FROM asm_runs WHERE id = p_run AND tenant_id = p_tenant;
  IF NOT FOUND THEN RETURN NULL; END IF;
  PERFORM 1 FROM asm_session_runtime WHERE session_id = v_session FOR UPDATE;
  SELECT * INTO r FROM asm_runs WHERE id = p_run;
  IF r.status IN ('pending', 'awaiting_approval') THEN
    v_events := asm_end_run(p_run, 'cancelled', NULL, CASE p_kind WHEN 'interrupt' THEN '{"reason": "interrupted"}'::jsonb ELSE '{}' END);
    r.status := 'cancelled';
  ELSIF r.status = 'running' AND r.cancel_requested_at IS NULL THEN
    UPDATE asm_runs SET cancel_requested_at = clock_timestamp(), cancel_kind = p_kind WHERE id = p_run;
    PERFORM asm_audit('run.cancel_requested', p_tenant, v_session, p_run, jsonb_build_object('kind', p_kind));
  END IF;
  RETURN jsonb_build_object('session_id', v_session, 'status', r.status, 'events', v_events,
    'worker_id', CASE r.status WHEN 'running' THEN r.worker_id END,
    'wake', CASE WHEN v_events <> '[]' THEN asm_successors(v_session) ELSE '[]' END);
END $$;
