-- Read targets, of some, with months whose coverage pulls since the present pulls may have changed.
-- Reads the relation targets, changed_tail, which are these pulls, and kept_refusals.
--
-- Nearly always a target has one new pull of a month, every record fits, and the bank was asked
-- later than for all that was known before: it is plain. Then the new pull covers its days, and the
-- other days stay as they were.
--
-- grain: one row per read target

-- The linter takes the parameter of a lambda for a table.
-- noqa: disable=RF01,RF02,RF03
with touched as (

    select
        changed_tail.parent_id,
        list(distinct changed_tail.month) as months,
        min(changed_tail.refreshed_at) as refreshed_at,
        count(*) = count(distinct changed_tail.month) and bool_and(
            changed_tail.outcome = 'COMMITTED'
            and changed_tail.quarantined = 0
            and changed_tail.unfit_dates is null
            and changed_tail.refreshed_at is not null
        ) as is_plain
    from changed_tail
    semi join targets on changed_tail.parent_id = targets.account_id
    where changed_tail.parent_id between $first_id and $last_id
    group by changed_tail.parent_id

)

select
    touched.parent_id,
    touched.months,
    touched.is_plain
    and kept_refusals.parent_id is null
    and len(
        list_filter(
            coalesce(kept.ranges, []),
            lambda one:
            list_contains(touched.months, one.month)
            and (
                one.is_unfit
                or coalesce(one.refreshed_at >= touched.refreshed_at, true)
            )
        )
    ) = 0 as is_plain
from touched
left join kept_coverage as kept
    on
        touched.parent_id = kept.parent_id
        and kept.stream = $stream
        and kept.parent_id between $first_id and $last_id
left join kept_refusals on touched.parent_id = kept_refusals.parent_id
