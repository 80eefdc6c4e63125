-- Whether the feed is healthy: what was pulled of each bank and stream on each day, how fast, how
-- fresh, at which cost, and what went wrong.
--
-- subject: trust
-- grain:  one row per bank, stream and Riyadh day on which something was pulled or spent
-- key:    bank_identifier, stream, pulled_date
-- stored: table
-- apart:  whole
-- zone:   pulled_date is the Riyadh day of asking by this machine's clock; refreshes are counted on
--         the day by Lean's clock, which is the same except in simulated worlds
-- columns:
--   bank_identifier   Bank of the entity; application for streams that are not read from a bank.
--   stream            The stream; see pulls.
--   pulled_date       The Riyadh day.
--   pull_count        Pulls, whatever their outcome.
--   committed_count   Pulls that brought data.
--   unchanged_count   Pulls that found nothing new.
--   skipped_count     Pulls that were not permitted: they were not tried, or refused for good.
--   failed_count      Pulls that failed.
--   success_share     Committed and unchanged pulls over all pulls that were not skipped, or were
--                     skipped because their bank is off. From 0 to 1, rounded half up to four
--                     places; null where there are no such pulls.
--   paused_count      Skipped pulls whose bank is off; they count as not succeeded.
--   row_count         Rows that were committed.
--   quarantined_count  Records that did not fit.
--   request_count     Requests made, repeated ones included.
--   byte_count        Bytes of bodies, decoded.
--   refresh_spends    Refreshes that were spent on the bank; only on rows of the stream refreshes.
--   p50_seconds       Seconds that half of the reads took at most; a read of several months counts
--                     once.
--   p95_seconds       Seconds that 95 in 100 of the reads took at most.
--   oldest_refreshed_at  Oldest bank data copy that was read, UTC.
--   newest_refreshed_at  Newest bank data copy that was read, UTC.
--   p50_lag_hours     How far half of the pulls were at most behind the newest instant of the day
--                     by Lean's clock, in hours, rounded half up to two places.
--   max_lag_hours     How far the pull that is furthest behind was behind it.
--   feed_age_hours    Age of the newest bank data copy that any pull of the stream read, on any
--                     day, at the lake's clock. In hours, rounded half up to two places; null where
--                     no pull read a copy.
--   is_stale          Whether feed_age_hours is above what trust_limits allow; a feed of which
--                     nothing was ever read is stale too. Null for what is not read from a bank.
--   failing_count     Read targets whose newest pull failed, on any day; of a stream with months,
--                     the newest pull of any month. A pull that was skipped because its bank is
--                     off changes nothing. Entities that were removed, were deleted or are absent
--                     do not count.
--   failed_codes      Failed pulls by code; null where no pull failed.
--   skipped_codes     Skipped pulls by code; null where no pull was skipped.
-- sample: select bank_identifier, stream, failing_count, is_stale, failed_codes
--         from mart_sync_health where failing_count > 0 or is_stale order by pulled_date desc
with asked as (

    select
        coalesce(bank_identifier, 'application') as bank_identifier,
        stream,
        riyadh_date(asked_at) as pulled_date,
        outcome,
        code,
        rows,
        quarantined,
        requests,
        bytes,
        refreshed_at,
        known_at,
        case when requests > 0 then epoch_us(finished_at) - epoch_us(asked_at) end as microseconds
    from pulls

),

newest as (

    select
        pulled_date,
        -- If every bank is behind on a day, no fresh bank data copy is there to compare with.
        max(greatest(refreshed_at, known_at)) as refreshed_at
    from asked
    where outcome in ('COMMITTED', 'UNCHANGED')
    group by pulled_date

),

banks_of_entities as (

    select
        entity_id,
        bank_identifier,
        state in ('removed', 'deleted', 'absent') as is_gone
    from dim_entities
    where is_current

),

spent as (

    select
        coalesce(banks_of_entities.bank_identifier, 'application') as bank_identifier,
        'refreshes' as stream,
        riyadh_date(refresh_spends.spent_at) as pulled_date,
        count(*) as refresh_spends
    from refresh_spends
    left join banks_of_entities on refresh_spends.entity_id = banks_of_entities.entity_id
    group by all

),

ages as (

    select
        bank_identifier,
        stream,
        max(refreshed_at) as refreshed_at
    from asked
    where outcome in ('COMMITTED', 'UNCHANGED')
    group by bank_identifier, stream

),

newest_pulls as (

    select
        coalesce(bank_identifier, 'application') as bank_identifier,
        stream,
        entity_id,
        parent_id,
        month,
        arg_max(
            outcome,
            (
                coalesce(known_at, asked_at),
                coalesce(generation, 0),
                pull_tie(generation, pull_id)
            )
        ) as outcome
    from pulls
    where coalesce(code, '') <> 'BANK_PAUSED'
    group by all

),

failing as (

    select
        newest_pulls.bank_identifier,
        newest_pulls.stream,
        count(distinct newest_pulls.parent_id) as failing_count
    from newest_pulls
    left join banks_of_entities on newest_pulls.entity_id = banks_of_entities.entity_id
    where newest_pulls.outcome = 'FAILED' and not coalesce(banks_of_entities.is_gone, false)
    group by newest_pulls.bank_identifier, newest_pulls.stream

),

limits as (

    select max(most) filter (where limit_name = 'feed_age_hours')::integer as most_age_hours
    from trust_limits

),

pulled as (

    select
        asked.bank_identifier,
        asked.stream,
        asked.pulled_date,
        count(*) as pull_count,
        count(*) filter (where asked.outcome = 'COMMITTED') as committed_count,
        count(*) filter (where asked.outcome = 'UNCHANGED') as unchanged_count,
        count(*) filter (where asked.outcome = 'SKIPPED') as skipped_count,
        count(*) filter (
            where asked.outcome = 'SKIPPED' and asked.code = 'BANK_PAUSED'
        ) as paused_count,
        count(*) filter (where asked.outcome = 'FAILED') as failed_count,
        sum(asked.rows)::bigint as row_count,
        sum(asked.quarantined)::bigint as quarantined_count,
        sum(asked.requests)::bigint as request_count,
        sum(asked.bytes)::bigint as byte_count,
        quantile_disc(asked.microseconds, 0.5) as p50_microseconds,
        quantile_disc(asked.microseconds, 0.95) as p95_microseconds,
        min(asked.refreshed_at) filter (
            where asked.outcome in ('COMMITTED', 'UNCHANGED')
        ) as oldest_refreshed_at,
        max(asked.refreshed_at) filter (
            where asked.outcome in ('COMMITTED', 'UNCHANGED')
        ) as newest_refreshed_at,
        quantile_disc(epoch_us(newest.refreshed_at) - epoch_us(asked.refreshed_at), 0.5) filter (
            where asked.outcome in ('COMMITTED', 'UNCHANGED')
        ) as p50_lag,
        max(epoch_us(newest.refreshed_at) - epoch_us(asked.refreshed_at)) filter (
            where asked.outcome in ('COMMITTED', 'UNCHANGED')
        ) as max_lag,
        histogram(asked.code) filter (where asked.outcome = 'FAILED') as failed_codes,
        histogram(asked.code) filter (where asked.outcome = 'SKIPPED') as skipped_codes
    from asked
    left join newest on asked.pulled_date = newest.pulled_date
    group by asked.bank_identifier, asked.stream, asked.pulled_date

)

select
    -- ids
    coalesce(pulled.bank_identifier, spent.bank_identifier) as bank_identifier,
    coalesce(pulled.stream, spent.stream) as stream,
    coalesce(pulled.pulled_date, spent.pulled_date) as pulled_date,

    -- counts
    coalesce(pulled.pull_count, 0) as pull_count,
    coalesce(pulled.committed_count, 0) as committed_count,
    coalesce(pulled.unchanged_count, 0) as unchanged_count,
    coalesce(pulled.skipped_count, 0) as skipped_count,
    coalesce(pulled.paused_count, 0) as paused_count,
    coalesce(pulled.failed_count, 0) as failed_count,
    case
        when pulled.pull_count > pulled.skipped_count - pulled.paused_count
            then round(
                (
                    (pulled.committed_count + pulled.unchanged_count)
                    / (pulled.pull_count - pulled.skipped_count + pulled.paused_count)
                )::decimal(18, 9),
                4
            )::decimal(5, 4)
    end as success_share,
    coalesce(pulled.row_count, 0) as row_count,
    coalesce(pulled.quarantined_count, 0) as quarantined_count,
    coalesce(pulled.request_count, 0) as request_count,
    coalesce(pulled.byte_count, 0) as byte_count,
    coalesce(spent.refresh_spends, 0) as refresh_spends,

    -- times
    (pulled.p50_microseconds::decimal(18, 0) * 0.000001)::decimal(18, 6) as p50_seconds,
    (pulled.p95_microseconds::decimal(18, 0) * 0.000001)::decimal(18, 6) as p95_seconds,
    pulled.oldest_refreshed_at,
    pulled.newest_refreshed_at,
    round((pulled.p50_lag / 3600000000)::decimal(18, 9), 2)::decimal(18, 2) as p50_lag_hours,
    round((pulled.max_lag / 3600000000)::decimal(18, 9), 2)::decimal(18, 2) as max_lag_hours,

    round(
        ((epoch_us(clock.as_of) - epoch_us(ages.refreshed_at)) / 3600000000)::decimal(18, 9), 2
    )::decimal(18, 2) as feed_age_hours,
    case
        when coalesce(pulled.bank_identifier, spent.bank_identifier) <> 'application'
            then coalesce(
                epoch_us(clock.as_of) - epoch_us(ages.refreshed_at)
                > limits.most_age_hours * 3600000000,
                true
            )
    end as is_stale,
    coalesce(failing.failing_count, 0) as failing_count,

    -- errors
    pulled.failed_codes::map (varchar, bigint) as failed_codes,
    pulled.skipped_codes::map (varchar, bigint) as skipped_codes
from pulled
full outer join spent
    on
        pulled.bank_identifier = spent.bank_identifier
        and pulled.stream = spent.stream
        and pulled.pulled_date = spent.pulled_date
left join ages
    on
        coalesce(pulled.bank_identifier, spent.bank_identifier) = ages.bank_identifier
        and coalesce(pulled.stream, spent.stream) = ages.stream
left join failing
    on
        coalesce(pulled.bank_identifier, spent.bank_identifier) = failing.bank_identifier
        and coalesce(pulled.stream, spent.stream) = failing.stream
left join clock on true
cross join limits
