-- Entities by bank, for the state of health: the age of their data, their consents, and what is
-- left of their refreshes. $streams and $hours say how old data may be, by stream.
--
-- An entity is late if data of any of its streams is older than twice the hours of the policy. Then
-- a refresh is not only due, but a sync was missed. An entity whose consent has ended is not late.
--
-- A consent that reached its own end shows as ACTIVE or, later, as REVOKED. A consent that the
-- customer revoked before its end is no trouble. A consent that ended over $consent_days ago is
-- ignored.
--
-- grain: one row per bank
-- zone:  instants are UTC, by Lean's clock
with readable as (

    select
        readable.entity_id,
        readable.bank_identifier,
        readable.skip_code
    from readable_entities('accounts', $now) as readable  -- noqa: RF02

),

newest as (

    select
        *,
        consent_status = 'ACTIVE' and expires_at > $now as is_active
    from consents
    where
        entity_id in (
            select entities.entity_id
            from entities
            where coalesce(entities.status, 'ACTIVE') = 'ACTIVE'
        )
    qualify
        row_number() over (
            partition by entity_id
            order by is_active desc, created_at desc, consent_id asc
        ) = 1

),

consented as (

    select
        entity_id,
        case when is_active then expires_at end as ends_at,
        is_active and expires_at <= $now + to_days($consent_days) as is_ending,
        case
            when
                not is_active
                and expires_at between $now - to_days($consent_days) and $now
                and (consent_status = 'ACTIVE' or status_updated_at >= expires_at)
                then expires_at
        end as ended_at
    from newest

),

known as (

    select
        entity_id,
        stream,
        max(refreshed_at) as refreshed_at
    from all_pulls
    where
        outcome in ('COMMITTED', 'UNCHANGED')
        and list_contains($streams, stream)
        and refreshed_at is not null
    group by all

),

late as (

    select
        entity_id,
        min(stream) as stream,
        min(refreshed_at) as refreshed_at
    from known
    where
        refreshed_at < $now - 2 * to_hours(1) * map($streams, $hours)[stream]
        and entity_id in (select readable.entity_id from readable where readable.skip_code is null)
    group by entity_id

),

spent as (

    select
        entity_id,
        count(*) as used,
        count(*) filter (where spent_at >= $lean_midnight) as used_today,
        -- When the oldest refresh that fills the budget ends to count; null while it is not full.
        list_sort(list(spent_at), 'desc')[$per_day] + interval 24 hours as next_at
    from refresh_spends
    where spent_at > $now - interval 24 hours
    group by entity_id

)

select
    readable.bank_identifier,
    count(*) filter (where readable.skip_code is null) as entities,
    count(late.entity_id) as late_entities,
    min(late.refreshed_at) as oldest_refreshed_at,
    coalesce(
        list_sort(list(distinct late.stream) filter (where late.stream is not null)), []
    ) as late_streams,
    count(*) filter (where consented.is_ending) as consents_ending,
    min(consented.ends_at) as next_consent_end_at,
    count(consented.ended_at) as consents_expired,
    min(consented.ended_at) as consents_expired_since,
    coalesce(sum(spent.used), 0)::bigint as refreshes_used,
    count(spent.next_at) as entities_without_refresh,
    count(spent.next_at) filter (where late.entity_id is not null) as late_without_refresh,
    min(spent.next_at) as next_refresh_at,
    coalesce(sum(spent.used_today), 0)::bigint as refreshes_today
from readable
left join consented on readable.entity_id = consented.entity_id
left join late on readable.entity_id = late.entity_id
left join spent on readable.entity_id = spent.entity_id
group by readable.bank_identifier
order by readable.bank_identifier
