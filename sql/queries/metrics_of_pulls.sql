-- Pulls of the last 24 hours by stream and outcome, what they took and brought, and when the stream
-- was last read with a good end. Reads pulls.
--
-- grain: one row per stream and outcome that was ever recorded
select
    stream,
    outcome,
    count(*) filter (asked_at > $now - interval 24 hours) as pull_count,
    coalesce(sum(requests) filter (asked_at > $now - interval 24 hours), 0) as request_count,
    coalesce(sum(rows) filter (asked_at > $now - interval 24 hours), 0) as row_count,
    max(epoch(max(asked_at) filter (outcome in ('COMMITTED', 'UNCHANGED'))))
        over (partition by stream) as last_good_epoch
from pulls
group by
    stream,
    outcome
order by
    stream asc,
    outcome asc
