-- How much of two names is the same, from 0 to 1: the share of the shorter name's words that the
-- longer name has. A single word gives half at most, because a given name alone identifies nobody.
-- Null where a name is empty, or where the names are in different scripts, which proves nothing.
create or replace macro name_share(ours, theirs) as
case
    when
        len(ours) > 0 and len(theirs) > 0
        and regexp_matches(ours[1], '[A-Z0-9]') = regexp_matches(theirs[1], '[A-Z0-9]')
        then round(
            len(list_intersect(ours, theirs)) / greatest(2, least(len(ours), len(theirs))), 2
        )::decimal(3, 2)
end;
