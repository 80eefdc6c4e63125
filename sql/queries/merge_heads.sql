-- For each account in chosen: the newest pull to merge, and the pulls that the merged pull
-- replaces. Reads the temporary tables places and chosen.
--
-- grain: one row per account
with covered as (

    select
        places.parent_id,
        any_value(places.newest_id) as newest_id,
        arg_max(
            places.pull_id, (places.knowledge['made'], places.knowledge['tie'])
        ) filter (where places.is_merged) as before_id,
        list(places.pull_id order by places.place) filter (
            where places.is_new
        ) as since,
        list(places.pull_id order by places.pull_id) filter (
            where places.is_merged and places.old_place is null
        ) as standing,
        coalesce(any_value(places.most), 0) + 1 as first
    from places
    inner join chosen on places.parent_id = chosen.parent_id
    group by places.parent_id

)

select
    covered.newest_id,
    case when covered.before_id is null then [] else [covered.before_id] end as before,
    coalesce(covered.since, []) as since,
    list_filter(
        coalesce(covered.standing, []), lambda one: one <> covered.before_id  -- noqa: RF03
    ) as others,
    covered.first
from covered
