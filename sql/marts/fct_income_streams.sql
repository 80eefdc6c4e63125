-- What comes in, by payer: how often, how steadily, since when, and whether it goes on.
--
-- subject: income and obligations
-- grain:  one row per account, currency, payer and kind of income
-- key:    stream_id
-- stored: table
-- apart:  account by account_key
-- counts: streams of payments in; loans paid out are not income; single payments count only where
--         the bank or its text names them; see int_payment_streams
-- zone:   days are Riyadh days
-- columns:
--   kind                      salary, government (support or pension from the state), profit,
--                             transfers, settlement (of card sales) or other.
--   median_amount             The median payment, in units of currency.
--   total_amount              Sum of the payments.
--   coefficient_of_variation  Standard deviation of the payments over their mean, to four places;
--                             zero for equal payments.
--   status                    stopped with two or more payments overdue, or after ninety days
--                             without a payment if it is irregular. Else started, if fewer than
--                             four payments came and the first came more than 45 days after the
--                             first covered day. Else ongoing.
--   salary_source             For a salary: bank (its mark PAYROLL), text (the bank's words) or
--                             inferred; else null.
--   confidence                How sure the kind is: 1 by the bank's mark, 0.9 by the kind of
--                             movement, 0.8 by its text, 0.6 if inferred, 0.5 where only the payer
--                             is known.
--   is_support                Whether it is support that credit rules leave out.
--   is_pension                Whether it is a pension.
-- sample: select kind, status, count(*) as streams, sum(median_amount) as amount from
--         fct_income_streams where currency = 'SAR' group by all
select
    -- ids
    stream_id,
    account_key,
    counterparty_key,

    -- money
    currency,
    typical_payment as median_amount,
    total_payment as total_amount,
    payment_variation as coefficient_of_variation,

    -- attributes
    case
        when kind in ('salary', 'profit', 'settlement') then kind
        when kind in ('support', 'pension') then 'government'
        when kind = 'transfer' then 'transfers'
        else 'other'
    end as kind,
    cadence,
    typical_day,
    moves_before_weekend,
    case
        when overdue_count > 1 or (overdue_count is null and data_through_date - last_date > 90)
            then 'stopped'
        when occurrence_count < 4 and first_date - covered_from > 45 then 'started'
        else 'ongoing'
    end as status,
    case
        when kind = 'salary' then case kind_source when 'flag' then 'bank' else kind_source end
    end as salary_source,
    case kind_source
        when 'flag' then 1.0 when 'kind' then 0.9 when 'text' then 0.8 when 'inferred' then 0.6
        else 0.5
    end::decimal(3, 2) as confidence,

    -- counts
    occurrence_count,
    months_seen,

    -- flags
    kind = 'support' as is_support,
    kind = 'pension' as is_pension,

    -- times
    first_date,
    last_date,
    next_expected_date,

    -- coverage
    covered_from,
    data_through_date,
    uncovered_days,
    opaque_share,

    -- trace
    movement_ids
from int_payment_streams
where direction = 'in' and kind <> 'disbursement'
