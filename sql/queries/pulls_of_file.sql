-- Committed pulls whose rows were in a file, with the pulls that were merged into it. batch_id and
-- month say where rows were before a merge.
--
-- grain: one row per pull
with direct as (

    select
        pull_id,
        covers is not null as is_merged
    from pulls
    where
        batch_id = $batch_id
        and stream = $stream
        and ($month is null or month = $month)
        and outcome = 'COMMITTED'

)

select
    pull_id,
    null as batch_id,
    null as month
from direct

union all

select
    pulls.pull_id,
    case when pulls.covers is null then pulls.batch_id end as batch_id,
    pulls.month
from merged_pulls(null::varchar[]) as merged
inner join direct on merged.merged_id = direct.pull_id and direct.is_merged
inner join pulls on merged.pull_id = pulls.pull_id and pulls.outcome = 'COMMITTED'
