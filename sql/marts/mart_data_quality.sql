-- Which data not to use, and why: what is odd about each bank's data, and how much of it is
-- tolerated.
--
-- subject: trust
-- grain:  one row per observation, stream and bank
-- key:    observation, stream, bank_identifier
-- stored: table
-- apart:  whole
-- counts: what counts now, of all months; an observation is left out where row_count would be zero
-- columns:
--   observation      What is observed; see quality_rules.
--   stream           The stream that it is about.
--   bank_identifier  The bank; unknown where it could not be read.
--   odd_count        Rows that are odd; null where the observation is not a count.
--   row_count        Rows that could be odd.
--   observed         Share of odd rows, from 0 to 1, rounded half up to six places.
--   threshold        Largest share that passes; see quality_rules.
--   is_passed        Whether observed is at most threshold.
--   severity         How serious it is if it does not pass: error or warning.
--   as_of            The lake's clock.
-- sample: select bank_identifier, stream, observation, observed from mart_data_quality
--         where not is_passed order by all
with movements as (

    select
        bank_identifier,
        sum(movement_count) as movement_count,
        sum(unknown_sign_count) as unknown_sign_count,
        sum(null_status_count) as null_status_count,
        sum(unsupported_count) as unsupported_count,
        sum(unknown_currency_count) as unknown_currency_count,
        sum(opaque_count) as opaque_count,
        sum(null_balance_count) as null_balance_count,
        sum(booked_count) as booked_count
    from int_quality_monthly
    group by bank_identifier

),

ahead as (

    select
        bridge_accounts.bank_identifier,
        count(*) as future_count
    from fct_transactions
    inner join bridge_accounts on fct_transactions.account_id = bridge_accounts.account_id
    where fct_transactions.booking_date > (select clock.as_of_date from clock)
    group by bridge_accounts.bank_identifier

),

-- What did not fit and still counts, with rows that are dated in the future.
unfit as (

    select
        stream,
        bank_identifier,
        sum(record_count) as unfit_count,
        sum(record_count) filter (
            where reason = 'is dated after the day on which the bank was asked'
        ) as future_count
    from quarantine
    where is_record_lost and bank_identifier is not null
    group by stream, bank_identifier

),

-- Several pulls may count in a month of transactions, each with a part of its rows.
counting as (

    select
        'transactions' as stream,
        bank_identifier,
        movement_count as row_count
    from movements

    union all

    select
        pulls.stream,
        pulls.bank_identifier,
        sum(pulls.rows) as row_count
    from pulls
    where
        pulls.stream <> 'transactions'
        and pulls.bank_identifier is not null
        and pulls.pull_id in (select claims.pull_id from claims)
    group by pulls.stream, pulls.bank_identifier

),

newest_months as (

    select
        bank_identifier,
        max(month) as month
    from int_quality_monthly
    group by bank_identifier

),

drifts as (

    select
        months.bank_identifier,
        sum(months.movement_count) filter (where months.month = newest_months.month) as row_count,
        sum(months.null_status_count) filter (where months.month = newest_months.month)
        / sum(months.movement_count) filter (where months.month = newest_months.month) as now_share,
        sum(months.null_status_count) filter (where months.month < newest_months.month)
        / sum(months.movement_count) filter (where months.month < newest_months.month)
            as before_share
    from int_quality_monthly as months
    inner join newest_months on months.bank_identifier = newest_months.bank_identifier
    group by months.bank_identifier

),

with_balance as (

    select distinct account_id
    from balances

),

readable as (

    select
        account_windows.bank_identifier,
        count(*) as row_count,
        count(*) filter (where with_balance.account_id is null) as odd_count
    from account_windows
    inner join dim_entities on account_windows.entity_id = dim_entities.entity_id
    left join with_balance on account_windows.account_id = with_balance.account_id
    where
        dim_entities.is_current
        and coalesce(dim_entities.permits_balance, false)
        and (
            account_windows.skip_code is null
            or account_windows.skip_code = 'USER_PERMISSIONS_NOT_GRANTED'
        )
    group by account_windows.bank_identifier

),

accounts_held as (

    select
        bank_identifier,
        count(*) as row_count,
        count(*) filter (where status is null) as null_status_count,
        count(*) filter (
            where status = 'UNSUPPORTED'
            or account_type = 'UNSUPPORTED'
            or account_sub_type = 'UNSUPPORTED'
        ) as unsupported_count
    from dim_accounts
    group by bank_identifier

),

newest_pulls as (

    select
        stream,
        bank_identifier,
        outcome
    from pulls
    where outcome <> 'SKIPPED' and bank_identifier is not null
    qualify
        row_number() over (
            partition by stream, parent_id, month
            order by
                coalesce(known_at, asked_at) desc,
                coalesce(generation, 0) desc,
                pull_tie(generation, pull_id) desc
        ) = 1

),

attempts as (

    select
        stream,
        bank_identifier,
        count(*) as pull_count,
        count(*) filter (where outcome = 'FAILED') as failed_count
    from newest_pulls
    group by stream, bank_identifier

),

observed as (

    select
        'unknown_sign' as observation,
        'transactions' as stream,
        bank_identifier,
        unknown_sign_count as odd_count,
        movement_count as row_count,
        unknown_sign_count / movement_count as observed
    from movements

    union all

    select
        'unsupported_value' as observation,
        'transactions' as stream,
        bank_identifier,
        unsupported_count as odd_count,
        movement_count as row_count,
        unsupported_count / movement_count as observed
    from movements

    union all

    select
        'opaque' as observation,
        'transactions' as stream,
        bank_identifier,
        opaque_count as odd_count,
        booked_count as row_count,
        opaque_count / booked_count as observed
    from movements

    union all

    select
        'unknown_currency' as observation,
        'transactions' as stream,
        bank_identifier,
        unknown_currency_count as odd_count,
        movement_count as row_count,
        unknown_currency_count / movement_count as observed
    from movements

    union all

    select
        'null_status' as observation,
        'transactions' as stream,
        bank_identifier,
        null_status_count as odd_count,
        movement_count as row_count,
        null_status_count / movement_count as observed
    from movements

    union all

    select
        'future_date' as observation,
        'transactions' as stream,
        movements.bank_identifier,
        coalesce(ahead.future_count, 0) + coalesce(unfit.future_count, 0) as odd_count,
        movements.movement_count + coalesce(unfit.future_count, 0) as row_count,
        (coalesce(ahead.future_count, 0) + coalesce(unfit.future_count, 0))
        / (movements.movement_count + coalesce(unfit.future_count, 0)) as observed
    from movements
    left join ahead on movements.bank_identifier = ahead.bank_identifier
    left join unfit
        on movements.bank_identifier = unfit.bank_identifier and unfit.stream = 'transactions'

    union all

    select
        'missing_balance_after' as observation,
        'transactions' as stream,
        bank_identifier,
        null_balance_count as odd_count,
        booked_count as row_count,
        null_balance_count / booked_count as observed
    from movements

    union all

    select
        'null_status_drift' as observation,
        'transactions' as stream,
        bank_identifier,
        null as odd_count,
        row_count,
        greatest(now_share - before_share, 0) as observed
    from drifts

    union all

    select
        'missing_balance' as observation,
        'balances' as stream,
        bank_identifier,
        odd_count,
        row_count,
        odd_count / row_count as observed
    from readable

    union all

    select
        'null_status' as observation,
        'accounts' as stream,
        bank_identifier,
        null_status_count as odd_count,
        row_count,
        null_status_count / row_count as observed
    from accounts_held

    union all

    select
        'unsupported_value' as observation,
        'accounts' as stream,
        bank_identifier,
        unsupported_count as odd_count,
        row_count,
        unsupported_count / row_count as observed
    from accounts_held

    union all

    select
        'quarantined' as observation,
        attempts.stream,
        attempts.bank_identifier,
        coalesce(unfit.unfit_count, 0) as odd_count,
        coalesce(counting.row_count, 0) + coalesce(unfit.unfit_count, 0) as row_count,
        coalesce(unfit.unfit_count, 0)
        / nullif(coalesce(counting.row_count, 0) + coalesce(unfit.unfit_count, 0), 0) as observed
    from attempts
    left join unfit
        on attempts.stream = unfit.stream and attempts.bank_identifier = unfit.bank_identifier
    left join counting
        on
            attempts.stream = counting.stream
            and attempts.bank_identifier = counting.bank_identifier

    union all

    select
        'failed_pull' as observation,
        stream,
        bank_identifier,
        failed_count as odd_count,
        pull_count as row_count,
        failed_count / pull_count as observed
    from attempts

)

select
    -- ids
    observed.observation,
    observed.stream,
    coalesce(observed.bank_identifier, 'unknown') as bank_identifier,

    -- counts
    observed.odd_count::bigint as odd_count,
    observed.row_count::bigint as row_count,
    round(observed.observed::decimal(18, 12), 6)::decimal(9, 6) as observed,
    rules.threshold::decimal(9, 6) as threshold,

    -- flags
    round(observed.observed::decimal(18, 12), 6) <= rules.threshold::decimal(9, 6) as is_passed,
    rules.severity,

    -- times
    clock.as_of
from observed
inner join quality_rules as rules on observed.observation = rules.observation
cross join clock
where observed.row_count > 0 and observed.observed is not null
