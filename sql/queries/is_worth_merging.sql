-- Whether a month is worth merging: more rows lie in files that were not merged than the month
-- shows. For a month that is no longer read every night a tenth is enough if its rows are stored
-- twice, because no more would come. Reads the temporary table merge_order.
--
-- grain: one row
with counted as (

    select
        coalesce(sum(rows) filter (where is_new), 0) as added,
        coalesce(sum(rows) filter (where is_merged), 0) as merged,
        coalesce(sum(rows) filter (where pull_id = newest_id), 0) as shown,
        max(knowledge['lean_asked_at']) filter (where is_new)
        + to_days($quiet_days)
        < (
            select max(coalesce(pulls.known_at, pulls.asked_at))
            from pulls
            where pulls.stream = $stream
        ) as is_quiet
    from merge_order

)

select added > shown or (is_quiet and added * 10 > shown and added + merged > shown)
from counted
