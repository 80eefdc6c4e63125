-- For each account in chosen: the newest pull to merge, and the pulls that the merged pull
-- replaces. Reads the temporary tables merge_order and chosen.
--
-- grain: one row per account
with covered as (

    select
        merge_order.parent_id,
        any_value(merge_order.newest_id) as newest_id,
        arg_max(
            merge_order.pull_id, (merge_order.knowledge['made'], merge_order.knowledge['tie'])
        ) filter (where merge_order.is_merged) as before_id,
        list(merge_order.pull_id order by merge_order.sequence_no) filter (
            where merge_order.is_new
        ) as since,
        list(merge_order.pull_id order by merge_order.pull_id) filter (
            where merge_order.is_merged and merge_order.old_sequence_no is null
        ) as other_heads,
        coalesce(any_value(merge_order.last_sequence_no), 0) + 1 as first
    from merge_order
    inner join chosen on merge_order.parent_id = chosen.parent_id
    group by merge_order.parent_id

)

select
    covered.newest_id,
    case when covered.before_id is null then [] else [covered.before_id] end as before,
    coalesce(covered.since, []) as since,
    list_filter(
        coalesce(covered.other_heads, []), lambda one: one <> covered.before_id  -- noqa: RF03
    ) as others,
    covered.first
from covered
