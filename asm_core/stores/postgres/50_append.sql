-- Store the events of many runs of many sessions in one round trip; a run whose lease is gone loses only its own.
--
-- p_batch: [{"session", "run", "tenant", "fence", "attempt", "events": [{id, type, timestamp, data, metadata,
-- schema_version, provider, correlation_id}, …]}, …], one entry per run.
--
-- 1 The leases still ours, locked FOR KEY SHARE: beats and start marks pass, but a takeover or finish (a DELETE) waits
--   for this commit. One order for all writers, or several writers on the same sessions would deadlock.
-- 2 The counters, in session order, held until commit: commit order is sequence order, so a reader that has seen n can
--   see all of 1..n.
-- 3 A new statement, hence a new snapshot: ids stored by an earlier, unconfirmed try are seen and not stored again.
-- 4 What is stored. A run of the batch without rows here has lost its lease.
CREATE OR REPLACE FUNCTION asm_append(p_batch jsonb)
RETURNS TABLE (run_id text, id text, sequence_number bigint)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_runs text[]; v_sessions text[]; v_entries bigint[];  -- entries, not runs: a process may send two terms of one run
  -- an array, not a sub-select: the planner then uses the id index at any size of the table
  v_ids text[] := ARRAY(SELECT e->>'id' FROM jsonb_array_elements(p_batch) b, jsonb_array_elements(b->'events') e);
BEGIN
  SELECT array_agg(r), array_agg(DISTINCT s), array_agg(bo) INTO v_runs, v_sessions, v_entries FROM (
    SELECT l.run_id r, l.session_id s, bo FROM asm_run_leases l
      JOIN jsonb_array_elements(p_batch) WITH ORDINALITY x(b, bo)
        ON l.run_id = b->>'run' AND l.fence = (b->>'fence')::bigint
     ORDER BY l.session_id, l.run_id FOR KEY SHARE OF l) held;
  IF v_runs IS NULL THEN RETURN; END IF;
  PERFORM 1 FROM asm_session_sequences WHERE session_id = ANY (v_sessions) ORDER BY session_id FOR UPDATE;
  WITH seen AS MATERIALIZED (SELECT o.id FROM asm_events o WHERE o.id = ANY (v_ids)),
  batch AS MATERIALIZED (  -- its columns, not `b`: event rows that drag their whole batch along are quadratic in its size
    SELECT b->>'session' session, b->>'run' run, b->>'tenant' tenant, (b->>'fence')::bigint fence,
           (b->>'attempt')::int attempt, b->'events' events, bo
      FROM jsonb_array_elements(p_batch) WITH ORDINALITY x(b, bo) WHERE bo = ANY (v_entries)),
  input AS MATERIALIZED (
    SELECT session, run, tenant, fence, attempt, e, row_number() OVER (PARTITION BY session ORDER BY bo, eo) n
      FROM batch, jsonb_array_elements(events) WITH ORDINALITY y(e, eo)
     WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.id = e->>'id')),
  added AS (
    INSERT INTO asm_events (id, tenant_id, type, "timestamp", session_id, run_id, fence, attempt, sequence_number, data,
                            metadata, schema_version, provider, correlation_id, stored_at)
    SELECT e->>'id', tenant, e->>'type', (e->>'timestamp')::timestamptz, session, run, fence, attempt,
           q.last_sequence + n, e->'data', e->'metadata',
           (e->>'schema_version')::int, e->>'provider', e->>'correlation_id', clock_timestamp()
      FROM input JOIN asm_session_sequences q ON q.session_id = session
    RETURNING session_id, sequence_number)
  UPDATE asm_session_sequences q SET last_sequence = m.top, updated_at = clock_timestamp()
    FROM (SELECT session_id, max(sequence_number) top FROM added GROUP BY 1) m WHERE q.session_id = m.session_id;
  RETURN QUERY SELECT o.run_id, o.id, o.sequence_number FROM asm_events o
    WHERE o.id = ANY (v_ids) AND o.run_id = ANY (v_runs) ORDER BY o.session_id, o.sequence_number;
END $$;
