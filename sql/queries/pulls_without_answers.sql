-- Further pulls of a family of streams that must not count if the pulls of $ids do not. They came
-- from the same reads or found them unchanged, and the answers of these reads are not kept. Reads
-- the temporary view raw_pages.
--
-- grain: one row per pull
with lost as (

    select *
    from pulls
    where
        list_contains($ids, pull_id)
        and series_id not in (select raw_pages.series_id from raw_pages)

)

select distinct pulls.pull_id
from pulls
inner join lost
    on
        list_contains($family, pulls.stream)
        and (
            (pulls.outcome = 'COMMITTED' and pulls.series_id = lost.series_id)
            or (
                pulls.outcome = 'UNCHANGED'
                and pulls.parent_id = lost.parent_id
                and pulls.month is not distinct from lost.month
            )
        )
where not list_contains($ids, pulls.pull_id)
