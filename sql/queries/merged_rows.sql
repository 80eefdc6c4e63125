-- Rows of merged files: each version of the temporary table runs once, under the newest pull of its
-- account.
--
-- grain: one row per version and run
select
    $columns,
    merge_order.newest_id as pull_id,
    versions.page_number,
    versions.record_number,
    runs.seen_from,
    runs.seen_to,
    runs.is_shown
from runs
inner join versions on runs.pull_id = versions.pull_id and $same_key
inner join merge_order
    on versions.pull_id = merge_order.pull_id and $read_target = merge_order.parent_id
order by $read_target, $placed_by
