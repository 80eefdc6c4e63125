-- Batches whose files have rows of some streams that count, or that their histories show.
--
-- grain: one row per stream and batch
select distinct
    pulls.stream,
    pulls.batch_id
from pulls
where
    pulls.outcome = 'COMMITTED'
    and list_contains($streams, pulls.stream)
    and (
        pulls.stream = 'refreshes'
        or pulls.pull_id in (select claims.pull_id from claims)
    )
