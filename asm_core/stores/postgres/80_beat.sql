-- One beat of a worker process: its lease on life is this row's last_seen. The same round trip brings back what it
-- holds and which of its runs were asked to stop. Null: it was declared dead and must leave everything it holds.
CREATE OR REPLACE FUNCTION asm_beat(p_worker text, p_draining boolean) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
  UPDATE asm_workers SET last_seen = clock_timestamp(), draining = p_draining WHERE id = p_worker AND lost_at IS NULL;
  IF NOT FOUND THEN RETURN NULL; END IF;
  RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('run_id', l.run_id, 'session_id', l.session_id, 'fence', l.fence,
                                                       'cancel_kind', r.cancel_kind)), '[]')
            FROM asm_run_leases l JOIN asm_runs r ON r.id = l.run_id WHERE l.worker_id = p_worker);
END $$;

-- Sessions that could be claimed now, least recently served first.
CREATE OR REPLACE FUNCTION asm_claimable(p_limit int) RETURNS SETOF text LANGUAGE sql STABLE AS $$
  SELECT rt.session_id FROM asm_session_runtime rt
    JOIN asm_sessions s ON s.id = rt.session_id AND s.status IN ('pending', 'active')
   WHERE rt.session_id IN (SELECT DISTINCT session_id FROM asm_runs r WHERE r.status = 'pending' AND r.submit_seq IS NOT NULL)
     AND rt.limiter_waiting_since IS NULL AND asm_slots_used(rt.session_id) < rt.max_concurrent_runs
   ORDER BY rt.last_served_at NULLS FIRST LIMIT p_limit
$$;
