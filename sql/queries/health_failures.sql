-- What fails now, for the state of health: read targets whose newest read failed, by code, and
-- entities whose newest refresh failed, as the stream refresh.
--
-- A read that was not tried because its bank had failed before counts under the code of that
-- failure.
--
-- grain: one row per bank, stream, code and remedy
with failed as (

    select
        stream,
        parent_id,
        month
    from all_pulls
    where outcome = 'FAILED' and code is distinct from 'RECORDS_UNFIT'
    group by all

),

of_targets as (

    select
        pulls.bank_identifier,
        pulls.stream,
        pulls.parent_id,
        pulls.month,
        pulls.outcome,
        pulls.code,
        pulls.remedy,
        coalesce(pulls.known_at, pulls.asked_at) as lean_asked_at
    from all_pulls as pulls
    inner join failed
        on
            pulls.stream = failed.stream
            and pulls.parent_id = failed.parent_id
            and pulls.month is not distinct from failed.month

    union all

    select
        bank_identifier,
        'refresh' as stream,
        entity_id as parent_id,
        null as month,
        case outcome when 'FINISHED' then 'COMMITTED' else 'FAILED' end as outcome,
        coalesce(code, outcome) as code,
        remedy,
        asked_at as lean_asked_at
    from refresh_attempts

),

mended as (

    select
        stream,
        parent_id,
        month,
        max(lean_asked_at) filter (where outcome <> 'FAILED') as last_good_at
    from of_targets
    group by all

),

failing as (

    select
        of_targets.bank_identifier,
        of_targets.stream,
        of_targets.parent_id,
        arg_max(of_targets.code, of_targets.lean_asked_at) filter (
            where of_targets.code <> 'CIRCUIT_OPEN'
        ) as code,
        arg_max(of_targets.remedy, of_targets.lean_asked_at) filter (
            where of_targets.code <> 'CIRCUIT_OPEN'
        ) as remedy,
        min(of_targets.lean_asked_at) as since
    from of_targets
    inner join mended
        on
            of_targets.stream = mended.stream
            and of_targets.parent_id = mended.parent_id
            and of_targets.month is not distinct from mended.month
    where
        of_targets.outcome = 'FAILED'
        and (mended.last_good_at is null or of_targets.lean_asked_at > mended.last_good_at)
    group by all

),

-- If a target was never asked itself, the usual failure of its bank is the cause.
usual as (

    select
        bank_identifier,
        mode(code) as code,
        mode(remedy) as remedy
    from failing
    where code is not null
    group by bank_identifier

)

select
    failing.bank_identifier,
    failing.stream,
    coalesce(failing.code, usual.code, 'CIRCUIT_OPEN') as code,
    coalesce(failing.remedy, usual.remedy, '') as remedy,
    count(distinct failing.parent_id) as count,
    min(failing.since) as since
from failing
left join usual on failing.bank_identifier is not distinct from usual.bank_identifier
group by all
order by all
