-- Pulls of a month that can be merged. Each has a number in the order of all pulls of its account
-- that were ever merged, or gets a number. Accounts whose days several pulls cover are left out.
--
-- grain: one row per pull
with whole as (

    select
        parent_id,
        min(pull_id) as newest_id
    from claims
    where stream = $stream and month = $month
    group by parent_id
    having count(*) = 1

),

known as (

    select
        pulls.parent_id,
        pulls.pull_id,
        whole.newest_id,
        pulls.rows,
        pulls.claimed_from,
        pulls.claimed_to,
        pulls.covers is not null as is_merged,
        merged.sequence_no as old_sequence_no,
        max(merged.sequence_no) over (partition by pulls.parent_id) as last_sequence_no,
        {
            'bank_asked_at': coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at),
            'lean_asked_at': coalesce(pulls.known_at, pulls.asked_at),
            'made': coalesce(pulls.generation, 0),
            'tie': case
                when pulls.generation is null then pulls.pull_id
                else substr(pulls.pull_id, 15)
            end
        } as knowledge
    from pulls
    inner join whole on pulls.parent_id = whole.parent_id
    left join merged_pulls([$month]) as merged on pulls.pull_id = merged.pull_id
    where
        pulls.stream = $stream
        and pulls.month = $month
        and pulls.outcome = 'COMMITTED'

),

numbered as (

    select
        *,
        old_sequence_no is null and not is_merged as is_new,
        coalesce(
            old_sequence_no,
            coalesce(last_sequence_no, 0) + row_number() over (
                partition by parent_id, old_sequence_no is null and not is_merged
                order by knowledge
            )
        )::integer as sequence_no
    from known

)

select
    *,
    arg_max(sequence_no, knowledge) filter (where not is_merged) over (
        partition by parent_id
    ) as newest_sequence_no
from numbered
