-- Versions of rows of the accounts in chosen, each with the run of pulls that brought it. A row is
-- kept as its key and two hashes of the rest, because every version of a month is compared.
--
-- Reads the temporary relations versions, merge_order and chosen. The remaining parameters are
-- columns.
--
-- grain: one row per version and run
with seen as (

    select
        $versions_key,
        versions.pull_id,
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

counted as (

    select
        *,
        sequence_no - row_number() over (
            partition by $key, content, again
            order by sequence_no
        ) as run
    from seen

)

select
    arg_max(pull_id, sequence_no) as pull_id,
    $key,
    min(sequence_no)::integer as seen_from,
    max(sequence_no)::integer as seen_to,
    any_value(newest_sequence_no) between min(sequence_no) and max(sequence_no) as is_shown
from counted
group by $key, content, again, run
