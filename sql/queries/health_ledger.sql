-- The ledger as a whole, for the state of health.
--
-- commits is the number of commits, and committed_at the newest end of a pull. ahead_us says how
-- far this machine's clock was ahead of Lean's at the newest good reads, in microseconds; negative
-- if it was behind, null before the first read. known_at is the time of Lean's last answer before a
-- read, so it is never too late: the smallest difference is the nearest to the truth.
--
-- grain: one row
with newest as (

    select max(finished_at) as finished_at
    from all_pulls
    where requests > 0 and outcome in ('COMMITTED', 'UNCHANGED')

)

select
    count(distinct pulls.batch_id) as commits,
    max(pulls.finished_at) as committed_at,
    min(epoch_us(pulls.asked_at) - epoch_us(pulls.known_at)) filter (
        where
        pulls.requests > 0
        and pulls.outcome in ('COMMITTED', 'UNCHANGED')
        and pulls.finished_at >= newest.finished_at - interval 10 minutes
    ) as ahead_us
from all_pulls as pulls
cross join newest
