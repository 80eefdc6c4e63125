-- What a customer could still pay every month by the rules of credit, and the movements behind
-- every number. It shows how a rule would count and is no decision. The shipped rules are
-- unverified; see affordability_rules.
--
-- subject: income and obligations
-- grain:  one row per customer, currency and version of the rules that hold on the lake's day;
--         every customer has a row, in SAR where no account has a known currency
-- key:    customer_id, currency, rule_version
-- stored: table
-- apart:  customer by customer_id
-- counts: salaries and pensions that go on count by their typical payment, as they arrive: what an
--         employer deducts before is not seen. Other periodic income counts by its average over
--         full months, of which the rules take a share. Support from the state does not count.
--         Loans and buy now pay later that go on are obligations. Rent is not, and the minimum
--         payment of a credit card is not known
-- zone:   months are Riyadh months of booking; a month is full by int_customer_months
-- columns:
--   customer_id               The customer.
--   currency                  Currency of all amounts, ISO 4217.
--   rule_version              Version of the rules.
--   as_of_date                Riyadh day that the rules are applied on, the lake's own today.
--   salary                    Salaries per month, as they arrive.
--   pension                   Pensions per month.
--   other_average             Other periodic income that goes on, per month: its average over full
--                             months, rounded to three places; null without a full month.
--   other_counted             The part of other_average that the rules count.
--   counted_income            Sum of salary, pension and other_counted; null where any of them is
--                             null.
--   obligations               Credit payments that go on, per month: their average over the months
--                             with a payment.
--   obligations_ratio         obligations over counted_income, to four places; null without income.
--   rule                      The rule that leaves the least.
--   article                   Where that rule stands.
--   verification              Whether the rule was verified against the law's text.
--   ceiling                   Most that the rule allows per month.
--   headroom                  ceiling less obligations; below zero where it is exceeded.
--   essential_spend           Net spending on essential categories, per month: its average over
--                             full months, rounded to three places; null without a full month.
--   essential_ratio           essential_spend over counted_income, to four places.
--   full_months               Full months that averages rest on.
--   window_short_of_rule      Whether other income counts although it was seen in fewer full months
--                             than the rules ask for.
--   not_applied               Rules with a condition that bank data cannot show.
--   verdict                   within or over the ceiling, or unknown.
--   unknown_reason            Why the verdict is unknown, the first reason that holds:
--                             not_an_individual (the customer shares a business account, and the
--                             rules are for individuals), months_missing, opaque_movements
--                             (opaque_share is above trust_limits) or no_income; else null.
--   opaque_share              Share of the money that moved in full months in this currency and was
--                             not understood; see fct_opacity_monthly. Null where no money moved.
--   is_decision_ready         Whether a decision may rest on the tables; see
--                             mart_customer_readiness.
--   readiness_reasons         Why a decision may not rest on the tables, sorted; empty where it
--                             may.
--   salary_movement_ids       Movements behind salary and pension.
--   other_movement_ids        Movements behind other_average, with those outside of full months.
--   obligation_movement_ids   Movements behind obligations. For those behind essential_spend, see
--                             fct_spend_monthly by account, currency and month.
-- sample: select verdict, unknown_reason, count(*) as customers from fct_affordability group by all
with holders as (

    select distinct
        account_key,
        customer_id
    from bridge_accounts
    where customer_id is not null  -- could not be read

),

rules as (

    select
        affordability_rules.rule_version,
        affordability_rules.rule,
        affordability_rules.basis,
        affordability_rules.condition,
        affordability_rules.article,
        affordability_rules.verification,
        clock.as_of_date,
        affordability_rules.share::decimal(9, 4) as share,
        affordability_rules.income_above::decimal(38, 9) as income_above,
        affordability_rules.income_up_to::decimal(38, 9) as income_up_to,
        affordability_rules.other_income_share::decimal(9, 4) as other_income_share,
        affordability_rules.other_income_months::integer as other_income_months,
        affordability_rules.least_full_months::integer as least_full_months
    from affordability_rules
    cross join clock
    where
        clock.as_of_date >= affordability_rules.valid_from::date
        and clock.as_of_date <= coalesce(affordability_rules.valid_to::date, clock.as_of_date)

),

versions as (

    select
        rule_version,
        max(as_of_date) as as_of_date,
        max(other_income_share) as other_income_share,
        max(other_income_months) as other_income_months,
        max(least_full_months) as least_full_months,
        string_agg(rule, ', ' order by rule) filter (where condition <> 'any') as not_applied
    from rules
    group by rule_version

),

full_months as (

    select
        customer_id,
        riyadh_month as month
    from int_customer_months
    where is_full_month

),

limits as (

    select max(most) filter (where limit_name = 'opaque_share')::decimal(5, 4) as most_opaque
    from trust_limits

),

opacity as (

    select
        holders.customer_id,
        moved.currency,
        share_of(sum(moved.opaque_amount), sum(moved.moved_amount)) as opaque_share
    from fct_opacity_monthly as moved
    inner join holders on moved.account_key = holders.account_key
    inner join full_months
        on holders.customer_id = full_months.customer_id and moved.month = full_months.month
    group by holders.customer_id, moved.currency

),

businesses as (

    select distinct holders.customer_id
    from holders
    inner join dim_accounts on holders.account_key = dim_accounts.account_key
    where dim_accounts.account_type = 'BUSINESS'

),

everybody as (

    select customer_id
    from holders
    union distinct
    select customer_id
    from dim_customers

),

month_counts as (

    select
        customer_id,
        count(*) as full_months
    from full_months
    group by customer_id

),

incomes as (

    select
        holders.customer_id,
        streams.stream_id,
        streams.currency,
        streams.median_amount,
        streams.movement_ids,
        case
            when streams.is_pension then 'pension' when streams.kind = 'salary' then 'salary'
            else 'other'
        end as counted_as
    from fct_income_streams as streams
    inner join holders on streams.account_key = holders.account_key
    where
        streams.status <> 'stopped'
        and not streams.is_support
        and (streams.kind = 'salary' or streams.is_pension or streams.cadence <> 'irregular')

),

earned as (

    select
        customer_id,
        currency,
        coalesce(sum(median_amount) filter (where counted_as = 'salary'), 0) as salary,
        coalesce(sum(median_amount) filter (where counted_as = 'pension'), 0) as pension,
        list_sort(flatten(
            coalesce(list(movement_ids) filter (where counted_as <> 'other'), [])
        )) as salary_movement_ids,
        list_sort(flatten(
            coalesce(list(movement_ids) filter (where counted_as = 'other'), [])
        )) as other_movement_ids
    from incomes
    group by customer_id, currency

),

others as (

    select
        incomes.customer_id,
        incomes.currency,
        sum(movements.payment) as total
    from int_counterparty_movements as movements
    inner join incomes on movements.stream_id = incomes.stream_id
    inner join full_months
        on
            incomes.customer_id = full_months.customer_id
            and strftime(movements.booking_date, '%Y-%m') = full_months.month
    where incomes.counted_as = 'other'
    group by incomes.customer_id, incomes.currency

),

owed as (

    select
        customer_id,
        currency,
        sum(active_average) as obligations,
        list_sort(flatten(list(movement_ids))) as obligation_movement_ids
    from fct_obligations
    where is_ongoing and kind in ('loan', 'bnpl')
    group by customer_id, currency

),

essentials as (

    select
        holders.customer_id,
        spend.currency,
        sum(spend.net_spend) as total
    from fct_spend_monthly as spend
    inner join holders on spend.account_key = holders.account_key
    inner join full_months
        on holders.customer_id = full_months.customer_id and spend.month = full_months.month
    where spend.is_essential
    group by holders.customer_id, spend.currency

),

currencies as (

    select
        customer_id,
        currency
    from earned

    union

    select
        customer_id,
        currency
    from owed

    union

    select
        customer_id,
        currency
    from essentials

    union

    select
        holders.customer_id,
        kept.currency
    from int_account_currencies as kept
    inner join holders on kept.account_key = holders.account_key

),

customers as (

    select
        customer_id,
        currency
    from currencies
    where currency is not null

    union distinct

    select
        everybody.customer_id,
        'SAR' as currency
    from everybody
    anti join currencies
        on everybody.customer_id = currencies.customer_id and currencies.currency is not null

),

counted as (

    select
        customers.customer_id,
        customers.currency,
        versions.rule_version,
        versions.as_of_date,
        versions.other_income_months,
        versions.least_full_months,
        versions.not_applied,
        coalesce(month_counts.full_months, 0) as full_months,
        coalesce(earned.salary, 0)::decimal(38, 9) as salary,
        coalesce(earned.pension, 0)::decimal(38, 9) as pension,
        mean_amount(coalesce(others.total, 0), coalesce(month_counts.full_months, 0))
            as other_average,
        scaled_amount(
            mean_amount(coalesce(others.total, 0), coalesce(month_counts.full_months, 0)),
            versions.other_income_share
        ) as other_counted,
        coalesce(owed.obligations, 0)::decimal(38, 9) as obligations,
        mean_amount(coalesce(essentials.total, 0), coalesce(month_counts.full_months, 0))
            as essential_spend,
        opacity.opaque_share,
        limits.most_opaque,
        businesses.customer_id is null as is_individual,
        coalesce(readiness.is_decision_ready, false) as is_decision_ready,
        coalesce(readiness.reasons, []) as readiness_reasons,
        coalesce(earned.salary_movement_ids, []) as salary_movement_ids,
        coalesce(earned.other_movement_ids, []) as other_movement_ids,
        coalesce(owed.obligation_movement_ids, []) as obligation_movement_ids
    from customers
    cross join versions
    cross join limits
    left join opacity
        on customers.customer_id = opacity.customer_id and customers.currency = opacity.currency
    left join businesses on customers.customer_id = businesses.customer_id
    left join mart_customer_readiness as readiness
        on customers.customer_id = readiness.customer_id
    left join month_counts on customers.customer_id = month_counts.customer_id
    left join earned
        on customers.customer_id = earned.customer_id and customers.currency = earned.currency
    left join others
        on customers.customer_id = others.customer_id and customers.currency = others.currency
    left join owed
        on customers.customer_id = owed.customer_id and customers.currency = owed.currency
    left join essentials
        on
            customers.customer_id = essentials.customer_id
            and customers.currency = essentials.currency

),

summed as (

    select
        *,
        salary + pension + other_counted as counted_income
    from counted

),

ceilings as (

    select
        summed.customer_id,
        summed.currency,
        summed.rule_version,
        rules.rule,
        rules.article,
        rules.verification,
        scaled_amount(
            case rules.basis
                when 'salary' then summed.salary when 'pension' then summed.pension
                else summed.counted_income
            end,
            rules.share
        ) as ceiling
    from summed
    inner join rules on summed.rule_version = rules.rule_version
    where
        rules.condition = 'any'
        and (rules.basis <> 'salary' or (summed.salary > 0 and summed.pension = 0))
        and (rules.basis <> 'pension' or summed.pension > 0)
        and summed.counted_income > coalesce(rules.income_above, 0)
        and summed.counted_income <= coalesce(rules.income_up_to, summed.counted_income)
    qualify
        row_number() over (
            partition by summed.customer_id, summed.currency, summed.rule_version
            order by ceiling asc, rules.rule asc
        ) = 1

)

select
    -- ids
    summed.customer_id,
    summed.rule_version,

    -- money
    summed.currency,
    summed.salary,
    summed.pension,
    summed.other_average,
    summed.other_counted,
    summed.counted_income,
    summed.obligations,
    ceilings.ceiling,
    ceilings.ceiling - summed.obligations as headroom,
    summed.essential_spend,

    -- attributes
    case
        when summed.counted_income > 0
            then round(summed.obligations / summed.counted_income, 4)::decimal(18, 4)
    end as obligations_ratio,
    case
        when summed.counted_income > 0
            then round(summed.essential_spend / summed.counted_income, 4)::decimal(18, 4)
    end as essential_ratio,
    ceilings.rule,
    ceilings.article,
    ceilings.verification,
    summed.not_applied,
    case
        when
            not summed.is_individual
            or summed.full_months < summed.least_full_months
            or summed.opaque_share > summed.most_opaque
            or ceilings.ceiling is null
            then 'unknown'
        when summed.obligations <= ceilings.ceiling then 'within'
        else 'over'
    end as verdict,
    case
        when not summed.is_individual then 'not_an_individual'
        when summed.full_months < summed.least_full_months then 'months_missing'
        when summed.opaque_share > summed.most_opaque then 'opaque_movements'
        when ceilings.ceiling is null then 'no_income'
    end as unknown_reason,

    -- flags
    summed.other_counted > 0 and summed.full_months < summed.other_income_months
        as window_short_of_rule,

    -- times
    summed.as_of_date,

    -- coverage
    summed.full_months,
    summed.opaque_share,
    summed.is_decision_ready,
    summed.readiness_reasons,

    -- trace
    summed.salary_movement_ids,
    summed.other_movement_ids,
    summed.obligation_movement_ids
from summed
left join ceilings
    on
        summed.customer_id = ceilings.customer_id
        and summed.currency = ceilings.currency
        and summed.rule_version = ceilings.rule_version
