-- Whether more rows lie in files that were not merged than show. Of a month that is no longer
-- read every night a tenth of that will do, if it lies there twice: nothing more would come to
-- make it worth it. Reads the temporary table places.
--
-- grain: one row
with counted as (

    select
        coalesce(sum(rows) filter (where is_new), 0) as added,
        coalesce(sum(rows) filter (where is_merged), 0) as merged,
        coalesce(sum(rows) filter (where pull_id = newest_id), 0) as shown,
        max(knowledge['heard_at']) filter (where is_new)
        + to_days($quiet_days)
        < (
            select max(coalesce(pulls.known_at, pulls.asked_at))
            from pulls
            where pulls.stream = $stream
        ) as is_quiet
    from places

)

select added > shown or (is_quiet and added * 10 > shown and added + merged > shown)
from counted
