-- How much of two names is the same, from 0 to 1: the share of the shorter one's words that the
-- longer one has. A single word makes half at most, since a given name is no name. Null where one
-- is empty or they are in different scripts, which says nothing about who it is.
create or replace macro name_share(ours, theirs) as
case
    when
        len(ours) > 0 and len(theirs) > 0
        and regexp_matches(ours[1], '[A-Z0-9]') = regexp_matches(theirs[1], '[A-Z0-9]')
        then round(
            len(list_intersect(ours, theirs)) / greatest(2, least(len(ours), len(theirs))), 2
        )::decimal(3, 2)
end;
