"""Row-level security as the catalog has it: what is open that must be closed.

Used by the tests, and by the migrate step after every run, which fails on the first table that somebody forgot.
What always holds: it reads `pg_catalog` alone, so it sees what is there, not what a migration meant. An empty answer
means that nobody who can log in, short of a superuser, reaches a row but through a policy.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from wardmesh.server.database import Connection

# `powerful` are the roles that row-level security does not bind; what they own and lend, it does not bind either.
_VIOLATIONS: Final = r"""
with powerful as (
    select oid from pg_roles where rolsuper or rolbypassrls
), ours as (
    select c.*, n.nspname, format('%s %I.%I', case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
               when 'f' then 'foreign table' else 'table' end, n.nspname, c.relname) as shown
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
       and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                        and d.deptype = 'e')
), found as (
    select shown || ': row-level security is not enabled' as what from ours
     where relkind in ('r', 'p') and not relrowsecurity
    union all
    select shown || ': row-level security is not forced on its owner' from ours
     where relkind in ('r', 'p') and not relforcerowsecurity
    union all
    select shown || ': cannot have row-level security' from ours where relkind in ('m', 'f')
    union all
    select format('%s: is owned by %I, which can log in', shown, r.rolname) from ours
      join pg_roles r on r.oid = relowner where relkind in ('r', 'p') and r.rolcanlogin
    union all
    select format('%s: reads with the rights of %I, which bypasses row-level security', shown, r.rolname) from ours
      join pg_roles r on r.oid = relowner
     where relkind = 'v' and relowner in (table powerful)
       and not coalesce('security_invoker=true' = any (reloptions) or 'security_invoker=on' = any (reloptions), false)
    union all
    select format('%s: TRUNCATE, which ignores row-level security, is granted to %s', shown,
                  case g.grantee when 0 then 'PUBLIC' else g.grantee::regrole::text end)
      from ours, aclexplode(relacl) g
     where relkind in ('r', 'p') and g.privilege_type = 'TRUNCATE' and g.grantee <> relowner
    union all
    select format('%s: %s is granted to PUBLIC', shown, g.privilege_type) from ours, aclexplode(relacl) g
     where relkind in ('r', 'p', 'v', 'm', 'f') and g.grantee = 0
    union all
    select format('%s: policy %I shows every row to %s', shown, p.polname,
                  coalesce(r.rolname::text, 'PUBLIC'))
      from ours join pg_policy p on p.polrelid = ours.oid
      cross join unnest(p.polroles) as to_role left join pg_roles r on r.oid = to_role
     where p.polpermissive and (to_role = 0 or r.rolcanlogin)
       and 'true' in (pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    union all
    select format('%s: unique index %s does not lead with org_id', shown, i.indexrelid::regclass)
      from ours join pg_index i on i.indrelid = ours.oid
     where i.indisunique and exists (select from pg_policy p where p.polrelid = ours.oid and p.polname = 'tenant')
       and not exists (select from pg_attribute a where a.attrelid = ours.oid and a.attnum = i.indkey[0]
                          and a.attname = 'org_id')
    union all
    select format('function %s: runs with the rights of %I, which bypasses row-level security', p.oid::regprocedure,
                  p.proowner::regrole::text)
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where p.prosecdef and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and p.proowner in (table powerful)
    union all
    select format('function %s: runs with its owner''s rights and does not pin search_path', p.oid::regprocedure)
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where p.prosecdef and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
       and not exists (select from unnest(p.proconfig) setting where setting like 'search_path=%')
    union all
    select format('role %I: bypasses row-level security', rolname) from pg_roles
     where rolname ~ '^wardmesh_' and (rolsuper or rolbypassrls)
    union all
    select format('role %I: may become wardmesh_owner', r.rolname) from pg_roles r
     where not rolsuper and rolname <> 'wardmesh_owner' and to_regrole('wardmesh_owner') is not null
       and pg_has_role(r.oid, to_regrole('wardmesh_owner'), 'MEMBER')
)
select what from found order by what
"""


async def violations(connection: asyncpg.Connection[asyncpg.Record] | Connection) -> list[str]:
    """Return a sentence for each thing in the database that row-level security does not hold; best none."""
    return [record["what"] for record in await connection.fetch(_VIOLATIONS)]
