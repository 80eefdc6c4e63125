-- Where balances and movements disagree: by how much, between which days, and the likely cause.
--
-- grain:  one row per account, currency and Riyadh day on which a gap shows
-- key:    account_key, currency, gap_date
-- stored: by riyadh_month, reading -1 to 0
-- apart:  account by account_key
-- formerly: fct_balance_gaps
-- counts: booked movements and booked balances
-- zone:   days and riyadh_month are Riyadh's
-- columns:
--   gap_date               Day on which the gap shows; what is missing lies on that day or before
--                          it.
--   suspected_cause        Likely cause of the gap. doubled_row: a movement of the day appears
--                          twice with the same balance after it. wrong_sign: the gap is twice an
--                          amount of the day. charge_not_included: the gap is a charge, its VAT or
--                          both, of a movement that does not say that it contains them. late_row:
--                          the stated balance holds more than the bank's list of movements so far.
--                          row_missing_on_day: a movement of gap_date is missing.
--                          row_missing_since: a movement is missing between gap_from_date and
--                          gap_date.
--   evidence_movement_ids  Movements that explain the gap, or else all movements of gap_date; see
--                          fct_transactions.
-- sample: select * from int_balance_gaps order by gap_date desc, account_key
with gaps as (

    select
        account_key,
        currency,
        from_date as gap_date,
        gap_from_date,
        gap_amount,
        expected_balance,
        observed_balance,
        riyadh_month,
        is_newest,
        stated_pull_id
    from int_balance_intervals
    where verdict = 'gap'

),

movements as (

    select
        gaps.account_key,
        gaps.currency,
        gaps.gap_date,
        gaps.gap_amount,
        ledger.movement_id,
        ledger.signed_amount,
        count(*) over (
            partition by
                gaps.account_key, gaps.currency, gaps.gap_date,
                ledger.signed_amount, ledger.signed_balance
        ) as twins,
        case
            when
                ledger.charge_currency = gaps.currency
                and not coalesce(ledger.is_charge_included, false)
                then ledger.charge_amount
        end as charge,
        case
            when
                ledger.charge_vat_currency = gaps.currency
                and not coalesce(ledger.is_charge_included, false)
                then ledger.charge_vat_amount
        end as vat
    from gaps
    inner join fct_transactions as ledger
        on
            gaps.account_key = ledger.account_key
            and gaps.currency = ledger.currency
            and gaps.gap_date = ledger.booking_date
    where ledger.is_booked and in_part(ledger.booking_date)

),

suspected as (

    select
        *,
        case
            when twins > 1 and gap_amount = -signed_amount * (twins - 1) then 'doubled_row'
            when gap_amount = -2 * signed_amount and signed_amount <> 0 then 'wrong_sign'
            when -gap_amount in (charge, vat, charge + vat) then 'charge_not_included'
        end as cause
    from movements

),

days as (

    select
        account_key,
        currency,
        gap_date,
        list(movement_id order by movement_id) as movement_ids,
        list(movement_id order by movement_id) filter (where cause = 'doubled_row') as doubled,
        list(movement_id order by movement_id) filter (where cause = 'wrong_sign') as wrong_signs,
        list(movement_id order by movement_id) filter (
            where cause = 'charge_not_included'
        ) as charged
    from suspected
    group by account_key, currency, gap_date

)

select
    -- ids
    gaps.account_key,

    -- money
    gaps.currency,
    gaps.gap_amount,
    gaps.expected_balance,
    gaps.observed_balance,

    -- attributes
    case
        when days.doubled is not null then 'doubled_row'
        when days.wrong_signs is not null then 'wrong_sign'
        when days.charged is not null then 'charge_not_included'
        when gaps.is_newest and gaps.stated_pull_id is not null then 'late_row'
        when gaps.gap_from_date = gaps.gap_date then 'row_missing_on_day'
        else 'row_missing_since'
    end as suspected_cause,
    coalesce(
        days.doubled, days.wrong_signs, days.charged, days.movement_ids, []
    ) as evidence_movement_ids,

    -- times
    gaps.gap_date,
    gaps.gap_from_date,
    gaps.riyadh_month,

    -- trace
    gaps.stated_pull_id
from gaps
left join days
    on
        gaps.account_key = days.account_key
        and gaps.currency = days.currency
        and gaps.gap_date = days.gap_date
