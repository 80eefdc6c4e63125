-- Versions of rows of the accounts in chosen, each with the run of pulls that brought it. A row is
-- kept as its key and two hashes of the rest, because every version of a month is compared. Pulls
-- that do not cover the row's day, because they read the last days alone, end no run.
--
-- Reads the temporary relations versions, merge_order and chosen. The remaining parameters are
-- columns.
--
-- grain: one row per version and run
with seen as (

    select
        $versions_key,
        versions.pull_id,
        merge_order.parent_id,
        $versions_day as utc_day,
        merge_order.sequence_no,
        merge_order.newest_sequence_no,
        hash($columns) as content,
        hash('again', $columns) as again
    from versions
    inner join merge_order
        on
            versions.pull_id = merge_order.pull_id
            and $read_target = merge_order.parent_id
    inner join chosen on merge_order.parent_id = chosen.parent_id

),

days as (

    select distinct
        parent_id,
        utc_day
    from seen

),

turns as (

    select
        days.parent_id,
        days.utc_day,
        merge_order.sequence_no,
        row_number() over (
            partition by days.parent_id, days.utc_day
            order by merge_order.sequence_no
        ) as turn
    from days
    inner join merge_order
        on
            days.parent_id = merge_order.parent_id
            and days.utc_day between merge_order.claimed_from and merge_order.claimed_to
    where not merge_order.is_merged

),

placed as (

    select
        seen.*,
        turns.turn
    from seen
    inner join turns
        on
            seen.parent_id = turns.parent_id
            and seen.utc_day = turns.utc_day
            and seen.sequence_no = turns.sequence_no

),

counted as (

    select
        *,
        turn - row_number() over (
            partition by $key, content, again
            order by turn
        ) as run
    from placed

)

select
    arg_max(pull_id, sequence_no) as pull_id,
    $key,
    min(sequence_no)::integer as seen_from,
    max(sequence_no)::integer as seen_to,
    any_value(newest_sequence_no) between min(sequence_no) and max(sequence_no) as is_shown
from counted
group by $key, content, again, run
