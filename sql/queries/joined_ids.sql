-- Ids with the least label of all that stand in a row with them.
--
-- grain: one row per id
with lowest as (

    select
        grouped.number,
        min(labels.label) as label
    from grouped
    inner join labels on grouped.id = labels.id
    group by grouped.number

)

select
    grouped.id,
    min(lowest.label) as label
from grouped
inner join lowest on grouped.number = lowest.number
group by grouped.id
