"""Other e-mails and names, on both engines."""

import asyncio

from tests.support.people import PASSWORD, open_people
from token_server.errors import OperatorError
from token_server.services.user_profile import change_names
from token_server.services.users import NewUser, add_user, show_user


async def test_two_people_who_want_one_email_at_once_do_not_both_get_it(database_url: str) -> None:
    """One is told that it is taken; nothing fails, and the loser keeps what they had."""
    async with open_people(database_url) as runtime:
        people = [
            await add_user(runtime, NewUser(f"{name}@example.org", name, PASSWORD))
            for name in ("ada", "grace")
        ]
        for number in range(20):
            wanted = f"wanted-{number}@example.org"

            async def rename(user_id: str, email: str = wanted) -> str:
                try:
                    changed = await change_names(runtime, user_id, email=email)
                except OperatorError as error:
                    return f"refused with {error.exit_code}"
                return changed.email

            answers = await asyncio.gather(*(rename(person.user_id) for person in people))
            assert sorted(answers) == ["refused with 4", wanted]
            emails = {(await show_user(runtime, person.user_id)).email for person in people}
            assert len(emails) == 2
