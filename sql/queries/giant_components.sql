-- Components with more rows in a month than a bucket is to have, numbered from 0.
--
-- grain: one row per component
with months as (

    select
        labels.label,
        coalesce(sum(pulls.rows), 0) + count(*) as row_count
    from pulls
    inner join labels on pulls.parent_id = labels.id
    where pulls.outcome = 'COMMITTED' and pulls.month is not null
    group by labels.label, pulls.month

)

select
    label,
    row_number() over (order by label) - 1 as number
from months
group by label
having max(row_count) > $most_rows
