-- Batches whose pulls of a month were all merged into other pulls that are committed.
--
-- grain: one row per stream, month and batch
select
    pulls.stream,
    pulls.month,
    pulls.batch_id,
    list(distinct successors.batch_id) as successors,
    list(distinct successors.batch_id) filter (where successors.rows > 0) as shown
from pulls
left join merged_pulls(null::varchar[]) as merged on pulls.pull_id = merged.pull_id
left join pulls as successors on merged.merged_id = successors.pull_id
where pulls.month is not null and pulls.outcome = 'COMMITTED'
group by all
having count(*) = count(successors.batch_id)
