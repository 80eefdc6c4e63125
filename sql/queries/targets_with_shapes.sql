-- Some accounts, each with the shape by which it is planned: the days that its consent and its bank
-- allow, and those that committed pulls cover. Reads the relation targets, changed_targets,
-- changed_tail, changed_pulls, and $claims, the claims of these pulls alone.
--
-- Plans differ only with shapes, and nearly all accounts share few of them. So a shape has the day
-- of a bank data copy, and the place of its instant among the instants of the account. If $is_sync,
-- it leaves out what decides nothing in a sync; only a plan for chosen months needs it.
--
-- A month is settled if a range covers all its allowed days, every record fits, and the bank was
-- asked more than $settled_days after its end. Nothing else of it decides then, and most months are
-- settled. Likewise an instant is cut to its day if it is more than $settled_days after the month's
-- end. Instants are numbers, because a column of instants costs many times as much to fetch.
--
-- The texts: days has the first and last day that the consent allows, the first day that the bank
-- offers, and the day on which it said so. shape has such days too, then a part per settled month,
-- and one per other range: month, first and last day, day and place of the copy, whether records
-- did not fit, and moving_from.
--
-- grain: one row per account, ordered by account_id

-- The linter takes the parameter of a lambda for a table.
-- noqa: disable=RF01,RF02,RF03,AL03
with changed as (

    select
        changed_tail.parent_id,
        changed_tail.month,
        changed_tail.claimed_from as from_date,
        changed_tail.claimed_to as to_date,
        changed_tail.refreshed_at,
        false as is_unfit,
        changed_tail.moving_from
    from changed_tail
    inner join changed_targets on changed_tail.parent_id = changed_targets.parent_id
    where
        changed_targets.is_plain
        and changed_tail.parent_id between $first_id and $last_id

),

kept as (

    select
        kept_coverage.parent_id,
        changed_targets.is_plain,
        changed_targets.months,
        kept_coverage.ranges
    from kept_coverage
    semi join targets on kept_coverage.parent_id = targets.account_id
    left join changed_targets on kept_coverage.parent_id = changed_targets.parent_id
    where
        kept_coverage.stream = $stream
        and kept_coverage.parent_id between $first_id and $last_id

),

-- Ranges of months that a plain target has a new pull of.
touched as (

    select
        parent_id,
        unnest(
            list_filter(
                ranges,
                lambda one: list_contains(months, one.month)
            ),
            recursive := true
        )
    from kept
    where is_plain

),

pieces as (

    select *
    from changed

    union all

    select touched.* replace (least(touched.to_date, changed.from_date - 1) as to_date)
    from touched
    inner join changed on touched.parent_id = changed.parent_id and touched.month = changed.month
    where touched.from_date < changed.from_date

    union all

    select touched.* replace (greatest(touched.from_date, changed.to_date + 1) as from_date)
    from touched
    inner join changed on touched.parent_id = changed.parent_id and touched.month = changed.month
    where touched.to_date > changed.to_date

    union all

    select
        claims.parent_id,
        claims.month,
        claims.claimed_from as from_date,
        claims.claimed_to as to_date,
        claims.refreshed_at,
        claims.is_unfit,
        claims.moving_from
    from $claims as claims
    semi join changed_pulls
        on
            claims.parent_id = changed_pulls.parent_id
            and claims.month = changed_pulls.month
            and changed_pulls.is_touched

),

gathered as (

    select
        parent_id,
        list(
            {
                'month': month,
                'from_date': from_date,
                'to_date': to_date,
                'refreshed_at': refreshed_at,
                'is_unfit': is_unfit,
                'moving_from': moving_from
            }
            order by from_date
        ) as ranges
    from pieces
    group by parent_id

),

every as (

    select
        targets.*,
        list_concat(
            case
                when kept.months is null then coalesce(kept.ranges, [])
                else list_filter(
                    kept.ranges,
                    lambda one: not list_contains(kept.months, one.month)
                )
            end,
            coalesce(gathered.ranges, [])
        ) as ranges
    from targets
    left join kept on targets.account_id = kept.parent_id
    left join gathered on targets.account_id = gathered.parent_id

),

judged as (

    select
        * exclude (ranges),
        list_transform(
            list_filter(
                ranges,
                lambda one: last_day(one.to_date) >= from_date
            ),
            lambda one: struct_insert(
                one,
                us := epoch_us(one.refreshed_at),
                is_late := coalesce(
                    make_timestamp(epoch_us(one.refreshed_at))::date
                    > last_day(one.from_date) + $settled_days,
                    false
                ),
                is_whole := (day(one.from_date) = 1 or one.from_date <= from_date)
                and one.to_date = last_day(one.from_date)
                and not one.is_unfit
            )
        ) as ranges
    from every

),

split as (

    select
        * exclude (ranges),
        list_transform(
            list_filter(
                ranges,
                lambda one: one.is_late and one.is_whole
            ),
            lambda one: one.month
        ) as settled,
        list_transform(
            list_filter(
                ranges,
                lambda one: not (one.is_late and one.is_whole)
            ),
            lambda one: struct_insert(
                one,
                cut := if(
                    one.is_late,
                    one.us // 86400000000 * 86400000000,
                    one.us
                )
            )
        ) as moving
    from judged

),

-- Settled months before the first other one are never planned, however many they are.
dated as (

    select
        *,
        list_sort(list_distinct(
            list_transform(moving, lambda one: one.cut)
        )) as instants,
        list_min(
            list_transform(moving, lambda one: one.from_date)
        ) as moving_on,
        $is_sync
        and len(settled) > 0
        and len(settled) = datediff('month', from_date, moving_on)
        and list_max(settled) < strftime(moving_on, '%Y-%m') as is_led
    from split

),

begun as (

    select
        *,
        date_trunc('month', if(is_led, moving_on, from_date))::date as month_on,
        if(is_led, month_on - 1, from_date) as first_on,
        -- What a bank has always had of these months decides nothing.
        $is_sync and coalesce(
            available_from + greatest($today - reported_on, 0)::integer + 31 <= month_on, true
        ) as is_offered
    from dated

)

select
    account_id,
    entity_id,
    bank_identifier,
    skip_code,
    read_months,
    instants,
    concat(from_date, '|', to_date, '|', available_from, '|', reported_on) as days,
    concat_ws(
        ';',
        concat(
            first_on, '|', least(to_date, $today), '|',
            if(is_offered, null, available_from), '|', if(is_offered, null, reported_on)
        ),
        if(is_led, strftime(first_on, '%Y-%m'), array_to_string(settled, ';')),
        array_to_string(
            list_transform(
                moving,
                lambda one: concat(
                    one.month, '|', one.from_date, '|', one.to_date, '|',
                    one.us // 86400000000, '|',
                    list_position(instants, one.cut), '|',
                    if(one.is_unfit, 'unfit', ''), '|', one.moving_from
                )
            ),
            ';'
        )
    ) as shape
from begun
order by account_id
