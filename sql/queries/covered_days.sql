-- Ranges of UTC days that committed pulls of a stream cover, both ends inclusive.
--
-- Instants are returned as numbers, because a column of instants costs many times as much to fetch.
-- The instant of a bank data copy is cut to its day if it is more than $settled_days after the
-- month's end. It decides nothing then, and accounts share most of their ranges.
--
-- grain: one row per pull and range, ordered by parent_id
select
    parent_id,
    month,
    claimed_from,
    claimed_to,
    epoch_us(
        case
            when refreshed_at::date > last_day(claimed_from) + $settled_days
                then date_trunc('day', refreshed_at)
            else refreshed_at
        end
    ) as refreshed_us,
    is_unfit,
    moving_from
from all_coverage
where stream = $stream
order by parent_id
