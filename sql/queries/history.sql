-- Every row of a snapshot stream that a committed pull ever brought, with the times of the pull.
--
-- grain: one row per row of a pull
select
    rows.*,
    pulls.month,
    pulls.claimed_from,
    pulls.claimed_to,
    pulls.refreshed_at,
    coalesce(pulls.known_at, pulls.asked_at) as known_at,
    pulls.generation,
    pulls.asked_at,
    pulls.finished_at
from $files as rows
inner join pulls on rows.pull_id = pulls.pull_id
where pulls.stream = $stream and pulls.outcome = 'COMMITTED'
