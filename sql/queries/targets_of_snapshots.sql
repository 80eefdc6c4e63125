-- Read targets of a stream without months. Each has the instant of its newest bank data copy, and
-- Lean's clock at its last read that did not fail. Reads the temporary macro readable and the
-- temporary table already_read.
--
-- grain: one row per read target, ordered by target_id
with wanted as (

    select *
    from readable($permission, $now)
    where
        ($entity_ids is null or list_contains($entity_ids, entity_id))  -- noqa: RF02
        and (
            $account_ids is null  -- noqa: RF02
            or list_contains($account_ids, target_id)  -- noqa: RF02
        )

),

known as (

    select
        claims.parent_id,
        max(pulls.refreshed_at) as refreshed_at
    from claims
    inner join pulls on claims.pull_id = pulls.pull_id and pulls.stream = $stream
    where claims.stream = $stream and claims.month is null
    group by claims.parent_id

),

last_read as (

    select
        parent_id,
        max(known_at) as known_at
    from pulls
    where
        stream = $stream
        and outcome not in ('FAILED', 'LOST')
        and parent_id in (select wanted.target_id from wanted)
    group by parent_id

)

select
    wanted.*,
    known.refreshed_at,
    last_read.known_at,
    already_read.read_months
from wanted
left join known on wanted.target_id = known.parent_id
left join last_read on wanted.target_id = last_read.parent_id
left join already_read on wanted.target_id = already_read.parent_id
order by wanted.target_id
