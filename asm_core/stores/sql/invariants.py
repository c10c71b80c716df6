"""
The invariants of DESIGN §9 as queries over whole sets; each yields one sentence (`what`) per violation.

Most are the same text on both databases: `format` is a function that `verify.py` adds to SQLite, times are compared
only with each other. Waiting (7) is a matter of a fleet, and a file has none: whoever opens it runs what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping

WAIT_BOUND_MS = 15_000
"""How long a claimable run may wait, and a dead worker's lease may stay (default fleet times: DESIGN §3)."""

# A session's numbers are exactly 1..n and its counter is n; the primary key excludes doubles. Numbers that maintenance
# pruned are missing, as many as the counter's row says, and never the last one. A fork's first numbers are those of the
# events it refers to: without a hole, of sessions that have them.
NUMBERS = """
WITH e AS (
  SELECT session_id, count(*) AS n, min(sequence_number) AS low, max(sequence_number) AS high
    FROM asm_events GROUP BY session_id
), logs AS (SELECT session_id FROM e UNION SELECT session_id FROM asm_session_sequences), inherited AS (
  SELECT i.session_id, sum(i.last_sequence - i.first_sequence + 1) AS n, max(i.last_sequence) AS high,
         min(CASE WHEN c.last_sequence >= i.last_sequence THEN 1 ELSE 0 END) AS is_there
    FROM asm_inherited_events i LEFT JOIN asm_session_sequences c ON c.session_id = i.source_session_id
   GROUP BY i.session_id)
SELECT format('session %s: the counter is %s, stored are %s events from %s to %s, pruned %s', logs.session_id,
              coalesce(CAST(c.last_sequence AS text), 'missing'), coalesce(e.n, 0), e.low, e.high, c.pruned_count
             ) AS what
  FROM logs LEFT JOIN e ON e.session_id = logs.session_id
  LEFT JOIN asm_session_sequences c ON c.session_id = logs.session_id
  LEFT JOIN asm_sessions s ON s.id = logs.session_id
 WHERE c.last_sequence IS NULL OR c.last_sequence <> coalesce(e.n, 0) + c.pruned_count + coalesce(s.forked_at, 0)
    OR e.low <= coalesce(s.forked_at, 0) OR c.last_sequence <> coalesce(e.high, 0)
UNION ALL
SELECT format('session %s was forked at %s: it refers to %s events, up to number %s',
              s.id, s.forked_at, coalesce(i.n, 0), coalesce(i.high, 0))
  FROM asm_sessions s LEFT JOIN inherited i ON i.session_id = s.id
 WHERE coalesce(s.forked_at, 0) <> coalesce(i.high, 0) OR s.forked_at <> i.n
    OR s.forked_at IS NOT NULL AND coalesce(i.is_there, 0) = 0
"""

# A terminal run has exactly one terminal event, the one of its status, and nothing of the run comes behind it.
TERMINAL_EVENTS = """
SELECT format('run %s is %s: it has %s terminal events, one %s, the last at %s, its log ends at %s',
              r.id, r.status, coalesce(e.n, 0), e.type, e.at, e.last) AS what
  FROM asm_runs r LEFT JOIN (
    SELECT session_id, run_id, max(sequence_number) AS last,
           count(*) FILTER (WHERE is_end) AS n, max(sequence_number) FILTER (WHERE is_end) AS at,
           max(type) FILTER (WHERE is_end) AS type
      FROM (SELECT session_id, run_id, sequence_number, type,
                   type IN ('run_completed', 'run_failed', 'run_cancelled', 'run_timeout') AS is_end
              FROM asm_events WHERE run_id IS NOT NULL) marked
     GROUP BY session_id, run_id) e ON e.session_id = r.session_id AND e.run_id = r.id
 WHERE CASE WHEN r.status IN ('completed', 'failed', 'cancelled', 'timeout')
            THEN coalesce(e.n, 0) <> 1 OR e.at <> e.last
              OR e.type <> CASE r.status WHEN 'timeout' THEN 'run_timeout' ELSE 'run_' || r.status END
            ELSE e.n > 0 END
"""

# After a takeover nobody writes under an older fence, nor in an older attempt. What carries neither is left aside.
FENCES = """
SELECT format('run %s: event %s has fence %s and attempt %s behind fence %s and attempt %s',
              run_id, sequence_number, fence, attempt, fence_before, attempt_before) AS what
  FROM (SELECT run_id, sequence_number, fence, attempt, max(fence) OVER earlier AS fence_before,
               max(attempt) OVER earlier AS attempt_before
          FROM asm_events WHERE run_id IS NOT NULL
        WINDOW earlier AS (PARTITION BY session_id, run_id ORDER BY sequence_number
                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) e
 WHERE fence < fence_before OR attempt < attempt_before
"""

# A run's first claim comes after the first claims of all that were submitted before it.
CLAIM_ORDER = """
SELECT format('session %s: run %s (place %s) was first claimed with fence %s, one before it with %s',
              session_id, id, submit_seq, first_fence, fence_before) AS what
  FROM (SELECT session_id, id, submit_seq, first_fence, max(first_fence) OVER (
                 PARTITION BY session_id ORDER BY submit_seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
               ) AS fence_before
          FROM asm_runs WHERE submit_seq IS NOT NULL AND first_fence IS NOT NULL) r
 WHERE first_fence <= fence_before
"""

# Slots: now by lease, in the past by the time from claim to end. Of a run claimed twice only the last claim's time is
# known, so it is left out of the past. Beginnings and ends of one instant: the end frees the slot first. A limiter may
# have been lowered below its use; then nothing may have been claimed since.
SLOTS = """
WITH marks AS (
  SELECT session_id, claimed_at AS at, 1 AS change FROM asm_runs
   WHERE claims = 1 AND claimed_at IS NOT NULL AND status <> 'pending'
  UNION ALL
  SELECT session_id, ended_at, -1 FROM asm_runs WHERE claims = 1 AND claimed_at IS NOT NULL AND ended_at IS NOT NULL
), peaks AS (
  SELECT session_id, max(level) AS peak FROM (
    SELECT session_id, sum(change) OVER (PARTITION BY session_id ORDER BY at, change ROWS UNBOUNDED PRECEDING) AS level
      FROM marks) levels GROUP BY session_id)
SELECT format('session %s holds %s leases, allowed are %s', session_id, count(*), rt.max_concurrent_runs) AS what
  FROM asm_run_leases l JOIN asm_session_runtime rt USING (session_id)
 GROUP BY session_id, rt.max_concurrent_runs HAVING count(*) > rt.max_concurrent_runs
UNION ALL
SELECT format('session %s had %s runs in flight at once, allowed are %s', session_id, p.peak, rt.max_concurrent_runs)
  FROM peaks p JOIN asm_session_runtime rt USING (session_id) WHERE p.peak > rt.max_concurrent_runs
UNION ALL
SELECT format('limiter %s: %s leases, allowed are %s', m.name, count(*), m.max_parallel_runs)
  FROM asm_run_leases l JOIN asm_limiters m ON m.name = l.limiter
 GROUP BY m.name HAVING count(*) > m.max_parallel_runs AND max(l.claimed_at) > m.changed_at
UNION ALL
SELECT format('run %s is running under fence %s, its lease has %s',
              r.id, r.fence, coalesce(CAST(l.fence AS text), 'gone'))
  FROM asm_runs r LEFT JOIN asm_run_leases l ON l.run_id = r.id
 WHERE r.status = 'running' AND coalesce(l.fence, 0) <> coalesce(r.fence, 0)
UNION ALL
SELECT format('the lease of run %s stands although the run is %s', l.run_id, coalesce(r.status, 'unknown'))
  FROM asm_run_leases l LEFT JOIN asm_runs r ON r.id = l.run_id WHERE coalesce(r.status, '') <> 'running'
"""

# Only for terminal runs: the sums are drawn when a run ends. What maintenance pruned of its usage events stands on the
# run, added up. Nine decimals are what the column keeps.
POSTGRES_USAGE = """
WITH spent AS (
  SELECT run_id, key, sum(value::numeric) AS total FROM (
    SELECT e.run_id, kv.key, kv.value
      FROM asm_events e, jsonb_each(CASE jsonb_typeof(e.data) WHEN 'object' THEN e.data ELSE '{}' END) kv
     WHERE e.type = 'token_usage_updated' AND e.run_id IS NOT NULL AND jsonb_typeof(kv.value) = 'number'
       AND (kv.key LIKE '%\\_tokens' OR kv.key = 'cost_usd')
    UNION ALL SELECT r.id, kv.key, kv.value FROM asm_runs r, jsonb_each(r.pruned_usage) kv) parts
   GROUP BY run_id, key
), sums AS (
  SELECT run_id, max(total) FILTER (WHERE key = 'cost_usd') AS cost_usd,
         coalesce(jsonb_object_agg(key, total) FILTER (WHERE key <> 'cost_usd'), '{}') AS token_usage
    FROM spent GROUP BY run_id)
SELECT format('run %s: usage %s and cost %s, its events add up to %s and %s',
              r.id, r.token_usage, r.cost_usd, coalesce(s.token_usage, '{}'), s.cost_usd) AS what
  FROM asm_runs r LEFT JOIN sums s ON s.run_id = r.id
 WHERE r.status IN ('completed', 'failed', 'cancelled', 'timeout')
   AND (r.token_usage <> coalesce(s.token_usage, '{}') OR round(r.cost_usd, 9) IS DISTINCT FROM round(s.cost_usd, 9))
"""

# Who waits, and since when: nothing that could have served the head of the queue has changed since then. A session
# changes when one of its runs is claimed, ends or goes back, or when it is resumed; a limiter when one of its runs ends
# or goes back. The fleet must have had a free slot all the time: `fleet` are the workers that were there, and
# `busiest` is the most that they held at once.
LIVENESS = """
WITH clock AS (
  SELECT t.now, t.now - :bound * interval '1 ms' AS horizon
    FROM (SELECT coalesce(CAST(:now AS timestamptz), transaction_timestamp()) AS now) t
), fleet AS (
  SELECT w.id, w.slots FROM asm_workers w, clock
   WHERE w.lost_at IS NULL AND NOT w.draining AND w.last_seen > clock.horizon AND w.started_at < clock.horizon
), recent AS (
  SELECT r.claimed_at, r.ended_at FROM asm_runs r JOIN fleet f ON f.id = r.worker_id, clock
   WHERE r.status = 'running' OR r.ended_at > clock.horizon
), marks AS (
  SELECT greatest(claimed_at, clock.horizon) AS at, 1 AS change FROM recent, clock
  UNION ALL SELECT ended_at, -1 FROM recent WHERE ended_at IS NOT NULL
), busiest AS (
  SELECT coalesce(max(level), 0) AS held FROM (
    SELECT sum(change) OVER (ORDER BY at, change ROWS UNBOUNDED PRECEDING) AS level FROM marks) levels
), freed AS (
  SELECT session_id, max(at) AS at FROM (
    SELECT session_id, ended_at AS at FROM asm_runs WHERE ended_at IS NOT NULL
    UNION ALL SELECT session_id, at FROM asm_audit_log WHERE action = 'run.requeued') given_back
   GROUP BY session_id
), limiter_freed AS (
  SELECT rt.limiter, max(freed.at) AS at FROM freed JOIN asm_session_runtime rt USING (session_id) GROUP BY rt.limiter
), heads AS (
  SELECT DISTINCT ON (session_id) session_id, id, created_at FROM asm_runs
   WHERE status = 'pending' AND submit_seq IS NOT NULL
   ORDER BY session_id, submit_seq
), waiting AS (
  SELECT h.id, h.session_id, greatest(h.created_at, s.updated_at, rt.last_served_at, f.at,
                                      CASE WHEN m.name IS NOT NULL THEN lf.at END) AS since
    FROM heads h
    JOIN asm_sessions s ON s.id = h.session_id AND s.status IN ('pending', 'active')
    JOIN asm_session_runtime rt ON rt.session_id = h.session_id
    LEFT JOIN asm_limiters m ON m.name = rt.limiter AND m.max_parallel_runs IS NOT NULL
    LEFT JOIN freed f ON f.session_id = h.session_id
    LEFT JOIN limiter_freed lf ON lf.limiter = rt.limiter
   WHERE rt.max_concurrent_runs > (SELECT count(*) FROM asm_run_leases l WHERE l.session_id = h.session_id)
                                + (SELECT count(*) FROM asm_runs p
                                    WHERE p.session_id = h.session_id AND p.status = 'awaiting_approval')
     AND (m.name IS NULL OR m.max_parallel_runs > (SELECT count(*) FROM asm_run_leases l WHERE l.limiter = m.name)))
SELECT format('run %s, first in session %s, waits since %s although %s of %s slots are taken',
              w.id, w.session_id, w.since, busiest.held, (SELECT sum(slots) FROM fleet)) AS what
  FROM waiting w, clock, busiest
 WHERE w.since < clock.horizon AND busiest.held < (SELECT sum(slots) FROM fleet)
UNION ALL
SELECT format('run %s is still leased to worker %s, lost at %s', l.run_id, w.id, w.lost_at)
  FROM asm_run_leases l JOIN asm_workers w ON w.id = l.worker_id, clock WHERE w.lost_at < clock.horizon
"""

# As above, key by key. SQLite adds up binary fractions: what lies nearer than a billionth is the same.
SQLITE_USAGE = """
WITH spent AS (
  SELECT run_id, key, sum(value) AS total FROM (
    SELECT e.run_id, kv.key, kv.value FROM asm_events e, json_each(e.data) kv
     WHERE e.type = 'token_usage_updated' AND e.run_id IS NOT NULL AND kv.type IN ('integer', 'real')
       AND (kv.key LIKE '%\\_tokens' ESCAPE '\\' OR kv.key = 'cost_usd')
    UNION ALL SELECT r.id, kv.key, kv.value FROM asm_runs r, json_each(r.pruned_usage) kv
     WHERE r.pruned_usage IS NOT NULL) parts
   GROUP BY run_id, key
), told AS (
  SELECT r.id AS run_id, kv.key, kv.value AS total FROM asm_runs r, json_each(r.token_usage) kv
  UNION ALL SELECT id, 'cost_usd', cost_usd FROM asm_runs WHERE cost_usd IS NOT NULL
), keys AS (SELECT run_id, key FROM spent UNION SELECT run_id, key FROM told)
SELECT format('run %s: %s is %s, its events add up to %s', r.id, k.key, t.total, s.total) AS what
  FROM keys k JOIN asm_runs r ON r.id = k.run_id AND r.status IN ('completed', 'failed', 'cancelled', 'timeout')
  LEFT JOIN spent s ON s.run_id = k.run_id AND s.key = k.key
  LEFT JOIN told t ON t.run_id = k.run_id AND t.key = k.key
 WHERE s.total IS NULL OR t.total IS NULL OR abs(s.total - t.total) > 1e-9 * max(1, abs(s.total))
"""

_PORTABLE = {1: NUMBERS, 2: TERMINAL_EVENTS, 3: FENCES, 4: CLAIM_ORDER, 5: SLOTS}
POSTGRES: Mapping[int, str] = {**_PORTABLE, 6: POSTGRES_USAGE, 7: LIVENESS}
SQLITE: Mapping[int, str] = {**_PORTABLE, 6: SQLITE_USAGE}
"""Number of an invariant to its query."""
