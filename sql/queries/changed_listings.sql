-- What new listings of the whole application show differently than the last one that was known, and
-- whether that is uncertain: there was none, or it is newer than one of them.
--
-- grain: one row per id
with listings as (

    select
        pull_id,
        batch_id in (from batches) as is_new,
        (
            coalesce(known_at, asked_at),
            coalesce(generation, 0),
            case when generation is null then pull_id else substr(pull_id, 15) end
        ) as place
    from all_pulls
    where stream = $stream and outcome = 'COMMITTED'

),

known as (

    select
        max_by(pull_id, place) as pull_id,
        max(place) as place
    from listings
    where not is_new

),

compared as (

    select pull_id
    from listings
    where is_new
    union distinct
    select pull_id
    from known
    where pull_id is not null

),

facts as (

    select
        count(*) as listing_count,
        coalesce(bool_or(listings.is_new), false) as has_new,
        coalesce(
            bool_or(listings.is_new and (known.place is null or listings.place < known.place)),
            false
        ) as is_uncertain
    from listings
    cross join known
    where listings.pull_id in (select compared.pull_id from compared)

),

records as (

    select
        rows.$id,
        rows.pull_id,
        hash(*columns(rows.* exclude (pull_id, page_number, record_number))) as content  -- noqa
    from ($rows) as rows
    semi join compared on rows.pull_id = compared.pull_id

)

select
    records.$id,
    any_value(facts.is_uncertain) as is_uncertain
from records
cross join facts
where facts.has_new
group by records.$id
having
    count(distinct records.content) > 1
    or count(distinct records.pull_id) < any_value(facts.listing_count)
    or any_value(facts.is_uncertain)
