-- Columns of the copy for analysts that hold a personal value: as a whole text or an element of a
-- list, or as a word if the value alone identifies somebody. Reads the temporary view texts, the
-- temporary table personal, and the macros plain and cut.
--
-- grain: one row per column
with held as materialized (

    select
        place,
        text
    from texts

),

cuttable as (

    select distinct
        place,
        text
    from held
    where regexp_matches(text, '[^\w-]')

),

parts as (

    select
        place,
        text as part,
        false as is_word
    from held

    union all

    select
        place,
        unnest(cut(text, '["\[\]{}(),;:|=''/]+')) as part,
        false as is_word
    from cuttable

    union all

    select
        place,
        unnest(cut(text, '[\s"\[\]{}(),;:|=''/]+')) as part,
        true as is_word
    from cuttable

)

select distinct parts.place
from parts
inner join personal
    on
        plain(parts.part) = personal.value
        and (personal.identifies or not parts.is_word)
order by parts.place
