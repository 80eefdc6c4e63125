-- Months of a stream with pulls that were not merged yet; the rest have nothing to merge.
--
-- grain: one row per month
select distinct pulls.month
from pulls
anti join merged_pulls(null::varchar[]) as merged on pulls.pull_id = merged.pull_id
where pulls.stream = $stream and pulls.outcome = 'COMMITTED' and pulls.covers is null
order by all
