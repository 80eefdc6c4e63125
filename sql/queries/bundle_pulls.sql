-- Pulls by stream, outcome and code, for a support bundle. Reads pulls.
--
-- grain: one row per stream, outcome and code
select
    stream,
    outcome,
    code,
    count(*) as pull_count,
    sum(requests)::bigint as request_count,
    sum(rows)::bigint as row_count,
    min(asked_at)::varchar as first_asked_at,
    max(asked_at)::varchar as last_asked_at
from pulls
group by
    stream,
    outcome,
    code
order by
    stream asc,
    outcome asc,
    code asc
