-- Where customers are lost: how many of the consents given in a week brought data, still held after
-- a month and a quarter, and how they ended.
--
-- subject: people and consents
-- grain:  one row per bank and week in which consents were given
-- key:    bank_identifier, week_date
-- stored: table
-- apart:  whole
-- counts: consents of every outcome, each in the week in which it was given; a consent that the
--         newest listing leaves out is absent, and what became of it is unknown
-- zone:   weeks begin on Monday in Riyadh
-- columns:
--   bank_identifier    Bank that the consents are for; unknown where it could not be read.
--   week_date          Monday of the week in which they were given.
--   given_count        Consents given.
--   first_data_count   Consents with a read of the bank's accounts whose bank data copy is from
--                      their time.
--   active_count       Consents that were active at the lake's clock.
--   expiring_count     Active consents that end within 30 days.
--   expired_count      Consents whose own end came first.
--   revoked_count      Consents that were revoked before their own end, replaced consents included.
--   rejected_count     Consents that were rejected.
--   absent_count       Consents that are no longer listed, or whose state is unknown.
--   reached_30_count   Consents given at least 30 days before the lake's clock.
--   active_30_count    Consents of reached_30_count that had not ended 30 days after they were
--                      given.
--   reached_90_count   Consents given at least 90 days before the lake's clock.
--   active_90_count    Consents of reached_90_count that had not ended 90 days after they were
--                      given.
--   renewed_count      Consents that ended and were followed by another consent of the same entity.
--   lapsed_count       Consents that ended and were not followed by another consent: customers to
--                      ask again.
--   p50_reconnect_hours  Hours that half of the renewed consents took at most from their end to the
--                      next consent, rounded half up to two places; zero where the next consent
--                      came first.
--   as_of              The lake's clock.
-- sample: select bank_identifier, sum(given_count) as given, sum(first_data_count) as with_data,
--         sum(lapsed_count) as lapsed from mart_consent_funnel group by all order by all
with given as (

    select
        consent_id,
        entity_id,
        coalesce(bank_identifier, 'unknown') as bank_identifier,
        state,
        expires_at,
        ended_at,
        days_to_expiry,
        as_of,
        coalesce(created_at, valid_from) as given_at,
        lead(coalesce(created_at, valid_from)) over (
            partition by entity_id
            order by coalesce(created_at, valid_from), consent_id
        ) as next_given_at
    from dim_consents
    where is_current

),

reads as (

    select
        entity_id,
        refreshed_at
    from pulls
    where
        stream = 'accounts'
        and outcome in ('COMMITTED', 'UNCHANGED')
        and refreshed_at is not null

),

with_data as (

    select distinct given.consent_id
    from given
    inner join reads
        on
            given.entity_id = reads.entity_id
            and given.given_at <= reads.refreshed_at
            and coalesce(given.next_given_at, 'infinity'::timestamptz) > reads.refreshed_at

),

followed as (

    select
        given.*,
        with_data.consent_id is not null as has_data,
        given.state in ('expired', 'revoked', 'rejected') as is_ended,
        given.as_of >= given.given_at + interval 720 hour as has_reached_30,
        given.as_of >= given.given_at + interval 2160 hour as has_reached_90,
        case
            when given.next_given_at is not null and given.ended_at is not null
                then greatest(epoch_us(given.next_given_at) - epoch_us(given.ended_at), 0)
        end as apart
    from given
    left join with_data on given.consent_id = with_data.consent_id

)

select
    -- ids
    bank_identifier,
    date_trunc('week', riyadh_date(given_at))::date as week_date,

    -- counts
    count(*) as given_count,
    count(*) filter (where has_data) as first_data_count,
    count(*) filter (where state = 'active') as active_count,
    count(*) filter (where state = 'active' and days_to_expiry <= 30) as expiring_count,
    count(*) filter (where state = 'expired') as expired_count,
    count(*) filter (where state = 'revoked') as revoked_count,
    count(*) filter (where state = 'rejected') as rejected_count,
    count(*) filter (where state in ('absent', 'unknown')) as absent_count,
    count(*) filter (where has_reached_30) as reached_30_count,
    count(*) filter (
        where has_reached_30
        and state not in ('absent', 'unknown')
        and coalesce(ended_at >= given_at + interval 720 hour, state = 'active')
    ) as active_30_count,
    count(*) filter (where has_reached_90) as reached_90_count,
    count(*) filter (
        where has_reached_90
        and state not in ('absent', 'unknown')
        and coalesce(ended_at >= given_at + interval 2160 hour, state = 'active')
    ) as active_90_count,
    count(*) filter (where is_ended and next_given_at is not null) as renewed_count,
    count(*) filter (where is_ended and next_given_at is null) as lapsed_count,

    -- times
    round(
        (quantile_disc(apart, 0.5) filter (where is_ended) / 3600000000)::decimal(18, 9), 2
    )::decimal(18, 2) as p50_reconnect_hours,
    max(as_of) as as_of
from followed
group by bank_identifier, week_date
