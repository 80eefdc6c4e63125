-- Payments that belong together, with their rhythm. The rhythm is learnt from the days on which
-- they were booked, never from a calendar of paydays.
--
-- grain:  one row per stream of payments
-- key:    stream_id
-- stored: table
-- apart:  account by account_key
-- formerly: fct_payment_streams
-- counts: streams of at least two movements, and single movements that the bank or its text names
--         (nature_source flag or text); movements as in int_counterparty_movements
-- zone:   days are Riyadh days
-- columns:
--   account_key           The real account.
--   currency              Currency of the payments, ISO 4217.
--   direction             in or out.
--   party_kind            What identifies the other side: biller, account, merchant, kind or
--                         amount; see int_counterparty_movements.
--   party                 Value that identifies the other side, of the kind that party_kind names.
--   counterparty_key      The other side's account; null where the bank does not give it.
--   merchant_match        The merchant, where there is one.
--   biller_id             The SADAD biller, where there is one.
--   kind                  What the payments are, as nature in int_counterparty_movements. If
--                         nothing in an account and currency names a salary, its largest monthly
--                         payment in counts as salary. That payment comes from another account or
--                         an unknown payer, varies by at most a tenth (payment_variation), and was
--                         seen on at least three days.
--   kind_source           What the kind was taken from: flag, kind, text or party; inferred for a
--                         salary that nothing names.
--   typical_payment       The median; of an even number of payments, the lower of the two in the
--                         middle.
--   smallest_payment      The smallest payment.
--   largest_payment       The largest payment.
--   total_payment         Sum of the payments.
--   payment_variation     Standard deviation of the payments over their mean, to four places.
--   occurrence_count      Number of payments.
--   day_count             Number of days with a payment.
--   months_seen           Number of Riyadh months with a payment.
--   cadence               daily, weekly, fortnightly, monthly, quarterly or yearly by the median
--                         gap between days, if three quarters of the gaps are whole periods. Also
--                         monthly if at least three months have a payment, each on a single day,
--                         and these are four fifths of the months from first to last. Else
--                         irregular. daily needs ten days, weekly and fortnightly four, monthly and
--                         quarterly three, and yearly two with equal payments. Payments to a
--                         merchant have a cadence only if the largest is at most a tenth above the
--                         smallest.
--   regularity            Share of the gaps that are whole periods, to four places; null without a
--                         gap or a period.
--   typical_day           The most frequent day of the month; the latest if several are equally
--                         frequent. Null where the cadence is shorter than a month, or where fewer
--                         than three quarters of the days lie between three days before it and the
--                         day after it.
--   moves_before_weekend  Whether each payment came on the Thursday before if the typical day was a
--                         Friday or a Saturday. Null where that never happened, and without a
--                         typical day.
--   first_date            Day of the first payment.
--   last_date             Day of the last payment.
--   next_expected_date    When the next payment is due: a period after the last payment, on the
--                         typical day if there is one, else by the end of the month. Null if
--                         irregular.
--   grace_days            Days that it may be late before it counts as late.
--   skipped_count         Periods without a payment between the first and the last payment; null if
--                         irregular, or where days of the account are not covered.
--   overdue_count         Payments that were due, with the days of grace, after the last payment
--                         and up to the last covered day; null if irregular.
--   covered_from          First day of the account that is covered.
--   data_through_date     Last day of the account that is covered.
--   opaque_share          Share of the account's money in this currency that moved, ever, and was
--                         not understood. It may belong to the stream; see fct_opacity_monthly.
--   uncovered_days        Days between covered_from and data_through_date that are not covered.
--   is_direct_debit       Whether the bank marks any of them as collected by a mandate.
--   is_standing_order     Whether the bank marks any of them as paid by a standing order.
--   movement_ids          The movements, by day.
-- sample: select cadence, kind, count(*) as streams from int_payment_streams group by all
with coverage as (

    select
        account_key,
        min(covered_from) as covered_from,
        max(covered_to) as covered_to,
        (max(covered_to) - min(covered_from) + 1 - sum(covered_days))::integer as uncovered_days
    from int_account_months
    group by account_key

),

opacity as (

    select
        account_key,
        currency,
        share_of(sum(opaque_amount), sum(moved_amount)) as opaque_share
    from fct_opacity_monthly
    group by account_key, currency

),

-- Most parties appear once: their movements are left out before anything is gathered.
recurring as (

    select stream_id
    from int_counterparty_movements
    group by stream_id
    having count(*) > 1 or bool_or(nature_source in ('flag', 'text'))

),

streams as (

    select
        movements.stream_id,
        any_value(movements.account_key) as account_key,
        any_value(movements.currency) as currency,
        any_value(movements.direction) as direction,
        any_value(movements.party_kind) as party_kind,
        any_value(movements.party) as party,
        any_value(movements.counterparty_key) as counterparty_key,
        any_value(movements.merchant_match) as merchant_match,
        any_value(movements.biller_id) as biller_id,
        any_value(movements.nature) as nature,
        min(movements.nature_source) as nature_source,
        quantile_disc(movements.payment, 0.5) as typical_payment,
        min(movements.payment) as smallest_payment,
        max(movements.payment) as largest_payment,
        sum(movements.payment) as total_payment,
        (stddev_pop(movements.payment) / avg(movements.payment))::decimal(18, 4)
            as payment_variation,
        count(*) as occurrence_count,
        bool_or(movements.is_direct_debit) as is_direct_debit,
        bool_or(movements.is_standing_order) as is_standing_order,
        list_sort(list_distinct(list(movements.booking_date))) as dates
    from int_counterparty_movements as movements
    semi join recurring on movements.stream_id = recurring.stream_id
    group by movements.stream_id

),

-- A step of its own: ids are most of the bytes, and would not fit in memory with the rest.
gathered as (

    select
        movements.stream_id,
        list_sort(
            list({
                'booking_date': movements.booking_date,
                'movement_id': movements.movement_id
            })
        ) as movements
    from int_counterparty_movements as movements
    semi join recurring on movements.stream_id = recurring.stream_id
    group by movements.stream_id

),

evidence as (

    select
        stream_id,
        list_transform(movements, lambda one: one['movement_id']) as movement_ids
    from gathered

),

rhythms as (

    select
        *,
        dates[1] as first_date,
        dates[-1] as last_date,
        len(dates) as day_count,
        len(list_distinct(list_transform(dates, lambda one: date_trunc('month', one))))
            as months_seen,
        datesub('month', date_trunc('month', dates[1]), dates[-1]) + 1 as months_spanned,
        list_transform(
            generate_series(2, len(dates)), lambda nth: dates[nth] - dates[nth - 1]
        ) as gaps
    from streams

),

periods as (

    select
        *,
        list_sort(gaps)[(len(gaps) + 1) // 2] as median_gap,
        case
            when median_gap between 1 and 2 then 'daily'
            when median_gap between 6 and 8 then 'weekly'
            when median_gap between 13 and 16 then 'fortnightly'
            when median_gap between 26 and 35 then 'monthly'
            when median_gap between 84 and 98 then 'quarterly'
            when median_gap between 350 and 380 then 'yearly'
        end as guess
    from rhythms

),

fitted as (

    select
        *,
        case guess
            when 'daily' then 100 when 'weekly' then 700 when 'fortnightly' then 1400
            when 'monthly' then 3044 when 'quarterly' then 9131 when 'yearly' then 36524
        end as period,
        case guess
            when 'daily' then 200 when 'weekly' then 200 when 'fortnightly' then 300
            when 'monthly' then 600 when 'quarterly' then 1500 when 'yearly' then 2000
        end as tolerance
    from periods

),

measured as (

    select
        * exclude (gaps),
        len(gaps) as gap_count,
        case
            when period is not null
                then len(list_filter(
                    gaps,
                    lambda gap:
                    abs(gap * 100 - greatest(round(gap * 100 / period), 1) * period) <= tolerance
                ))
        end as fitting,
        case
            when period is not null
                then list_sum(list_transform(
                    gaps, lambda gap: greatest(round(gap * 100 / period), 1) - 1
                ))::integer
        end as skipped
    from fitted

),

paced as (

    select
        *,
        case
            when
                nature = 'subscription' and largest_payment > smallest_payment * 1.1
                then 'irregular'
            when
                fitting * 4 >= gap_count * 3
                and (
                    (guess = 'daily' and day_count >= 10)
                    or (guess in ('weekly', 'fortnightly') and day_count >= 4)
                    or (guess in ('monthly', 'quarterly') and day_count >= 3)
                    or (guess = 'yearly' and smallest_payment = largest_payment)
                )
                then guess
            when
                months_seen >= 3
                and day_count = months_seen
                and months_seen * 5 >= months_spanned * 4
                then 'monthly'
            else 'irregular'
        end as cadence
    from measured

),

with_mode as (

    select
        *,
        case
            when cadence in ('monthly', 'quarterly', 'yearly')
                then list_max(list_transform(
                    dates,
                    lambda one:
                    len(list_filter(dates, lambda other: day(other) = day(one))) * 100 + day(one)
                )) % 100
        end as month_day
    from paced

),

with_typical_day as (

    select
        *,
        case
            when
                len(list_filter(dates, lambda one: month_day - day(one) between -1 and 3)) * 4
                >= day_count * 3
                then month_day
        end as typical_day
    from with_mode

),

shifted as (

    select
        *,
        list_filter(
            dates, lambda one: isodow(nth_of_month(one, typical_day)) in (5, 6)
        ) as weekend_dates,
        case cadence
            when 'quarterly' then 3 when 'yearly' then 12 when 'monthly' then 1
        end as months_on,
        case cadence
            when 'daily' then 3 when 'weekly' then 2 when 'fortnightly' then 3
            when 'monthly' then 6 when 'quarterly' then 15 when 'yearly' then 20
        end as grace_days
    from with_typical_day

),

learnt as (

    select
        *,
        case
            when typical_day is not null and len(weekend_dates) > 0
                then len(list_filter(
                    weekend_dates,
                    lambda one: one = before_weekend(nth_of_month(one, typical_day))
                )) = len(weekend_dates)
        end as moves_before_weekend,
        case
            when cadence = 'daily' then last_date + 1
            when cadence = 'weekly' then last_date + 7
            when cadence = 'fortnightly' then last_date + 14
            when typical_day is null then last_day((last_date + to_months(months_on))::date)
            else nth_of_month(
                -- A payment of the 1st that came on the 30th belongs to the next month.
                (
                    date_trunc('month', last_date + case when typical_day <= 3 then 3 else 0 end)
                    + to_months(months_on)
                )::date,
                typical_day
            )
        end as due_date
    from shifted

),

expected as (

    select
        learnt.*,
        case
            when learnt.moves_before_weekend then before_weekend(learnt.due_date)
            else learnt.due_date
        end as next_expected_date,
        coverage.covered_from,
        coverage.covered_to,
        coverage.uncovered_days
    from learnt
    left join coverage on learnt.account_key = coverage.account_key

),

salaries as (

    select
        stream_id,
        nature in ('transfer', 'other')
        and party_kind in ('account', 'amount')
        and cadence = 'monthly'
        and payment_variation <= 0.1
        and day_count >= 3 as is_like_one,
        bool_or(nature = 'salary') over (
            partition by account_key, currency
        ) as has_named,
        typical_payment,
        account_key,
        currency
    from expected
    where direction = 'in'

),

inferred as (

    select stream_id
    from salaries
    where is_like_one and not has_named
    qualify
        row_number() over (
            partition by account_key, currency
            order by typical_payment desc, stream_id asc
        ) = 1

)

select
    -- ids
    expected.stream_id,
    expected.account_key,
    expected.counterparty_key,
    expected.merchant_match,
    expected.biller_id,

    -- money
    expected.currency,
    expected.typical_payment,
    expected.smallest_payment,
    expected.largest_payment,
    expected.total_payment,
    expected.payment_variation,

    -- attributes
    expected.direction,
    expected.party_kind,
    expected.party,
    case when inferred.stream_id is null then expected.nature else 'salary' end as kind,
    case when inferred.stream_id is null then expected.nature_source else 'inferred' end
        as kind_source,
    expected.cadence,
    (expected.fitting / expected.gap_count)::decimal(5, 4) as regularity,
    expected.typical_day::integer as typical_day,
    expected.moves_before_weekend,

    -- counts
    expected.occurrence_count,
    expected.day_count,
    expected.months_seen,
    case
        when expected.cadence = 'irregular' or expected.uncovered_days > 0 then null
        when expected.cadence = expected.guess and expected.fitting * 4 >= expected.gap_count * 3
            then expected.skipped
        else expected.months_spanned - expected.months_seen
    end::integer as skipped_count,
    case
        when expected.cadence = 'irregular' then null
        when expected.covered_to <= expected.next_expected_date + expected.grace_days then 0
        when expected.months_on is null
            then 1 + (
                (expected.covered_to - expected.next_expected_date - expected.grace_days - 1) * 100
                // expected.period
            )
        else 1 + datesub(
            'month',
            expected.next_expected_date + expected.grace_days + 1,
            expected.covered_to
        ) // expected.months_on
    end::integer as overdue_count,

    -- flags
    expected.is_direct_debit,
    expected.is_standing_order,

    -- times
    expected.first_date,
    expected.last_date,
    expected.next_expected_date,
    expected.grace_days,

    -- coverage
    expected.covered_from,
    expected.covered_to as data_through_date,
    expected.uncovered_days,
    opacity.opaque_share,

    -- trace
    evidence.movement_ids
from expected
inner join evidence on expected.stream_id = evidence.stream_id
left join opacity
    on expected.account_key = opacity.account_key and expected.currency = opacity.currency
left join inferred on expected.stream_id = inferred.stream_id
