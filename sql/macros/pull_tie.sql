-- Orders pulls with the same instants and the same generation: the random part of the id. The id
-- begins with the time of this machine, which decides nothing. Where format 1 of the lake wrote no
-- generation, the whole id orders what was made from the same read.
create or replace macro pull_tie(generation, pull_id) as
case when generation is null then pull_id else substr(pull_id, 15) end;
