-- What is known of each account and day: unknown is never shown as zero.
--
-- It reads the ledger, accounts, consents and the days that banks offer, and nothing else.
--
-- parameters: at_instant
-- grain:  one row per account and UTC day, from the first day that is permitted or known to today
-- counts: not_offered     before the earliest day that Lean ever said the bank has: a read of it
--                         comes back empty, so the day is unknown although it was read
--         record_unfit    a record of the day did not fit, or a record whose day cannot be read:
--                         the day shows what fits and the last good versions of what does not
--         covered         a committed pull covers the day, whatever the consent says now
--         not_permitted   outside the consent's days, or the consent has ended or leaves it out
--         bank_refused    the last read of the month failed, or the bank is paused; see code
--         not_yet_pulled  permitted, but no read has covered it yet, or the files that did are
--                         lost (code DATA_LOST): the next sync reads it
with known as (

    select
        parent_id,
        min(claimed_from) as first_claimed
    from claims
    where stream = 'transactions'
    group by parent_id

),

days as (

    select
        readable.account_id,
        readable.entity_id,
        readable.bank_identifier,
        readable.skip_code,
        readable.from_date,
        readable.to_date,
        account_depths.offered_from,
        unnest(
            generate_series(
                least(readable.from_date, known.first_claimed),
                (at_instant at time zone 'UTC')::date,  -- noqa: RF02
                interval 1 day
            )
        )::date as utc_day
    from readable_accounts('transactions', at_instant) as readable  -- noqa: RF02
    left join known on readable.account_id = known.parent_id
    left join account_depths on readable.account_id = account_depths.account_id

),

attempts as (

    select
        parent_id,
        month,
        arg_max(
            outcome, (coalesce(known_at, asked_at), coalesce(generation, 0), pull_id)
        ) as outcome,
        arg_max(
            coalesce(code, ''), (coalesce(known_at, asked_at), coalesce(generation, 0), pull_id)
        ) as code
    from pulls
    where stream = 'transactions' and outcome <> 'SKIPPED'
    group by all

),

judged as (

    select
        days.*,
        claims.pull_id,
        coalesce(
            list_contains(claims.unfit_dates, days.utc_day),
            claims.pull_id is null and attempts.code = 'RECORDS_UNFIT'
        ) as is_unfit,
        attempts.outcome,
        attempts.code as failed_code
    from days
    left join claims
        on
            claims.stream = 'transactions'
            and days.account_id = claims.parent_id
            and claims.month = strftime(days.utc_day, '%Y-%m')
            and days.utc_day between claims.claimed_from and claims.claimed_to
            and (days.offered_from is null or days.utc_day >= days.offered_from)
    left join attempts
        on
            days.account_id = attempts.parent_id
            and attempts.month = strftime(days.utc_day, '%Y-%m')

)

select
    days.account_id,
    days.entity_id,
    days.bank_identifier,
    days.utc_day,
    case
        when days.utc_day < days.offered_from then 'not_offered'
        when days.pull_id is not null and days.is_unfit then 'record_unfit'
        when days.pull_id is not null then 'covered'
        when days.skip_code = 'BANK_PAUSED' then 'bank_refused'
        when
            days.skip_code is not null
            or days.utc_day not between days.from_date and days.to_date
            then 'not_permitted'
        when days.is_unfit then 'record_unfit'
        when days.outcome = 'FAILED' then 'bank_refused'
        else 'not_yet_pulled'
    end as status,
    days.pull_id,
    pulls.refreshed_at,
    case
        when days.utc_day < days.offered_from then null
        when days.is_unfit then 'RECORDS_UNFIT'
        when days.outcome = 'FAILED' then days.failed_code
        when days.outcome = 'LOST' and days.pull_id is null then 'DATA_LOST'
        when days.pull_id is null then days.skip_code
    end as code
from judged as days
left join pulls on days.pull_id = pulls.pull_id
