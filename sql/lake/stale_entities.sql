-- Entities whose bank should be asked again, because the lake's data of them is too old.
--
-- fresh_hours is a map of stream to hours.
--
-- parameters: fresh_hours, at_instant
-- grain:  one row per entity
-- counts: data is as old as the bank data copy that it was read from, or as the last refresh that
--         ended, if that is newer: what it brought can be read. An entity that was never read is
--         left out; see unread_entities. An entity whose customer has to connect again is left out
--         too, until there is a newer consent
with known as (

    select
        entity_id,
        stream,
        max(refreshed_at) as refreshed_at
    from pulls
    where outcome in ('COMMITTED', 'UNCHANGED') and refreshed_at is not null
    group by all

),

finished as (

    select
        entity_id,
        max(asked_at) as asked_at
    from refresh_attempts
    where outcome = 'FINISHED'
    group by entity_id

),

stale as (

    select
        known.entity_id,
        min(known.refreshed_at) as refreshed_at
    from known
    left join finished on known.entity_id = finished.entity_id
    where
        greatest(known.refreshed_at, finished.asked_at)
        < at_instant - to_hours(1) * fresh_hours[known.stream]  -- noqa: RF02
    group by known.entity_id

),

consented as (

    select
        entity_id,
        max(created_at) as consented_at
    from consents
    where consent_status = 'ACTIVE'
    group by entity_id

),

refused as (

    select
        entity_id,
        arg_max(outcome, asked_at) as outcome,
        max(asked_at) as asked_at
    from refresh_attempts
    group by entity_id

)

select
    readable.entity_id,
    readable.bank_identifier
from readable_entities('accounts', at_instant) as readable  -- noqa: RF02
inner join stale on readable.entity_id = stale.entity_id
left join consented on readable.entity_id = consented.entity_id
left join refused on readable.entity_id = refused.entity_id
where
    readable.skip_code is null
    and (
        coalesce(refused.outcome, '') not in ('RECONNECT_REQUIRED', 'CONSENT_EXPIRED')
        or consented.consented_at > refused.asked_at
    )
order by stale.refreshed_at, readable.entity_id
