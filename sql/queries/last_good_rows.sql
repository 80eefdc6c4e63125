-- What a stream shows of some records, each with the time when it last fitted. Reads the relation
-- wanted, which has the keys of these records.
--
-- grain: one row per record
select
    shown.* replace (
        coalesce(
            shown.last_good_at, pulls.refreshed_at, pulls.known_at, pulls.asked_at
        ) as last_good_at
    ),
    wanted.record_key
from $shown as shown
inner join wanted on $same_key
inner join pulls on shown.pull_id = pulls.pull_id
