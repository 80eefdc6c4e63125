-- What orders pulls that Lean's clock and their generation do not tell apart: the random part of
-- the id, since an id begins with the time of this machine, which decides nothing. Where format 1
-- of the lake wrote no generation, the whole id orders what was made from one read.
create or replace macro pull_tie(generation, pull_id) as
case when generation is null then pull_id else substr(pull_id, 15) end;
