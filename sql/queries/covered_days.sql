-- UTC days that committed pulls of a stream cover, both ends inclusive. Reads the table
-- changed_pulls, and $claims, the claims of these pulls alone.
--
-- A month is settled if a range covers all its days, every record fits, and the bank was asked more
-- than $settled_days after its end. Nothing else of it decides then, and most months are settled.
-- Likewise an instant is cut to its day if it is more than $settled_days after the month's end.
-- Instants are returned as numbers, because a column of instants costs many times as much to fetch.
--
-- grain: one row per read target, ordered by parent_id; the lists after settled_months have an
--        element per range
with changed as (

    select
        claims.parent_id,
        list(
            {
                'month': claims.month,
                'from_date': claims.claimed_from,
                'to_date': claims.claimed_to,
                'refreshed_at': claims.refreshed_at,
                'is_unfit': claims.is_unfit,
                'moving_from': claims.moving_from
            }
        ) as ranges
    from $claims as claims
    semi join changed_pulls
        on
            claims.parent_id = changed_pulls.parent_id
            and claims.month = changed_pulls.month
            and changed_pulls.is_touched
    group by claims.parent_id

),

touched as (

    select
        parent_id,
        list(distinct month) as months
    from changed_pulls
    where is_touched
    group by parent_id

),

unchanged as (

    select
        kept_coverage.parent_id,
        case
            when touched.parent_id is null then kept_coverage.ranges
            else list_filter(
                kept_coverage.ranges,
                lambda one: not list_contains(touched.months, one.month)  -- noqa: RF02,RF01
            )
        end as ranges
    from kept_coverage
    left join touched on kept_coverage.parent_id = touched.parent_id
    where kept_coverage.stream = $stream

),

every as (

    select
        coalesce(unchanged.parent_id, changed.parent_id) as parent_id,
        list_concat(coalesce(unchanged.ranges, []), coalesce(changed.ranges, [])) as ranges
    from unchanged
    full outer join changed on unchanged.parent_id = changed.parent_id

),

judged as (

    select
        every.parent_id,
        list_transform(
            list_filter(
                every.ranges,
                lambda one:  -- noqa: RF02
                one.from_date = date_trunc('month', one.from_date)  -- noqa: RF01
                and one.to_date = last_day(one.from_date)  -- noqa: RF01
                and not one.is_unfit  -- noqa: RF01
                and coalesce(
                    one.refreshed_at::date > last_day(one.from_date) + $settled_days,  -- noqa: RF01
                    false
                )
            ),
            lambda one: one.month  -- noqa: RF02,RF01
        ) as settled_months,
        every.ranges
    from every

),

moving as (

    select
        judged.parent_id,
        judged.settled_months,
        list_filter(
            judged.ranges,
            lambda one: not list_contains(judged.settled_months, one.month)  -- noqa: RF02,RF01
        ) as ranges
    from judged

)

select
    moving.parent_id,
    moving.settled_months,
    list_transform(moving.ranges, lambda one: one.month) as months,  -- noqa: RF01,RF02
    list_transform(moving.ranges, lambda one: one.from_date) as from_dates,  -- noqa: RF01,RF02
    list_transform(moving.ranges, lambda one: one.to_date) as to_dates,  -- noqa: RF01,RF02
    list_transform(
        moving.ranges,
        lambda one: epoch_us(  -- noqa: RF02
            case
                when one.refreshed_at::date > last_day(one.from_date) + $settled_days  -- noqa: RF01
                    then date_trunc('day', one.refreshed_at)  -- noqa: RF01
                else one.refreshed_at  -- noqa: RF01
            end
        )
    ) as refreshed_us,
    list_transform(moving.ranges, lambda one: one.is_unfit) as is_unfits,  -- noqa: RF01,RF02
    list_transform(moving.ranges, lambda one: one.moving_from) as moving_froms  -- noqa: RF01,RF02
from moving
order by moving.parent_id
