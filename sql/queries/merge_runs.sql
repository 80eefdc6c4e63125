-- Versions of rows of the accounts in chosen, each with the run of pulls that brought it. It keeps
-- of a row its key and two hashes of the rest, because every version of a month is compared.
--
-- Reads the temporary relations versions, places and chosen; its other parts are columns.
--
-- grain: one row per version and run
with seen as (

    select
        $versions_key,
        versions.pull_id,
        places.place,
        places.newest_place,
        hash($columns) as content,
        hash('again', $columns) as again
    from versions
    inner join places
        on
            versions.pull_id = places.pull_id
            and $read_target = places.parent_id
    inner join chosen on places.parent_id = chosen.parent_id

),

counted as (

    select
        *,
        place - row_number() over (
            partition by $key, content, again
            order by place
        ) as run
    from seen

)

select
    arg_max(pull_id, place) as pull_id,
    $key,
    min(place)::integer as seen_from,
    max(place)::integer as seen_to,
    any_value(newest_place) between min(place) and max(place) as is_shown
from counted
group by $key, content, again, run
