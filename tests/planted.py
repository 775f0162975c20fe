"""Made-up secrets: a seed goes in, keys of known formats come out, and lines of code around them.

A body is written {alphabet:length} and drawn each time, so that no file holds what a scanner of
secrets would report, and no test fits what it finds to one key.
"""

import random
import re
import string

ALPHABETS = {
    "alnum": string.ascii_letters + string.digits,
    "base64": string.ascii_letters + string.digits + "+/",
    "url": string.ascii_letters + string.digits + "-_",
    "letters": string.ascii_letters,
    "upper": string.ascii_uppercase + string.digits,
    "lower": string.ascii_lowercase + string.digits,
    "base32": string.ascii_uppercase + "234567",
    "hex": "0123456789abcdef",
    "digits": string.digits,
}

FORMATS = {
    "1Password": "ops_eyJ{base64:260}",
    "Airtable": "pat{alnum:14}.{hex:64}",
    "Anthropic": "sk-ant-api03-{url:93}AA",
    "AWS id": "AKIA{base32:16}",
    "AWS temporary id": "ASIA{base32:16}",
    "AWS secret": "{base64:40}",
    "Azure storage": "{base64:86}==",
    "Buildkite": "bkua_{hex:40}",
    "Cerebras": "csk-{lower:48}",
    "Databricks": "dapi{hex:32}",
    "DeepSeek": "sk-{hex:32}",
    "DigitalOcean": "dop_v1_{hex:64}",
    "Docker Hub": "dckr_pat_{url:27}",
    "Doppler": "dp.pt.{alnum:43}",
    "ElevenLabs": "sk_{hex:48}",
    "Figma": "figd_{url:40}",
    "Fireworks": "fw_{alnum:24}",
    "Fly": "fo1_{url:43}",
    "GitHub": "ghp_{alnum:36}",
    "GitHub app": "ghs_{alnum:36}",
    "GitHub fine-grained": "github_pat_{alnum:22}_{alnum:59}",
    "GitHub OAuth": "gho_{alnum:36}",
    "GitLab": "glpat-{url:20}",
    "Google": "AIza{url:35}",
    "Google access": "ya29.{url:120}",
    "Google OAuth": "GOCSPX-{url:28}",
    "Grafana": "glsa_{alnum:32}_{hex:8}",
    "Groq": "gsk_{alnum:52}",
    "Heroku": "HRKU-AA{url:58}",
    "Hugging Face": "hf_{letters:34}",
    "Jina": "jina_{hex:32}{alnum:28}",
    "JWT": "eyJ{url:33}.eyJ{url:60}.{url:43}",
    "LangSmith": "lsv2_pt_{hex:32}_{hex:10}",
    "Linear": "lin_api_{alnum:40}",
    "Mailchimp": "{hex:32}-us12",
    "Mailgun": "key-{hex:32}",
    "New Relic": "NRAK-{upper:27}",
    "Notion": "ntn_{digits:11}{alnum:35}",
    "npm": "npm_{alnum:36}",
    "NVIDIA": "nvapi-{url:64}",
    "OpenAI": "sk-{alnum:20}T3BlbkFJ{alnum:20}",
    "OpenAI project": "sk-proj-{url:74}T3BlbkFJ{url:74}",
    "OpenRouter": "sk-or-v1-{hex:64}",
    "Perplexity": "pplx-{alnum:48}",
    "Pinecone": "pcsk_{alnum:5}_{alnum:63}",
    "PlanetScale": "pscale_tkn_{url:43}",
    "Postman": "PMAK-{hex:24}-{hex:34}",
    "Pulumi": "pul-{hex:40}",
    "PyPI": "pypi-AgEIcHlwaS5vcmc{url:120}",
    "Replicate": "r8_{alnum:37}",
    "SendGrid": "SG.{url:22}.{url:43}",
    "Sentry": "sntryu_{hex:64}",
    "Shopify": "shpat_{hex:32}",
    "Slack app": "xapp-1-A{upper:10}-{digits:13}-{hex:64}",
    "Slack bot": "xoxb-{digits:12}-{digits:13}-{alnum:24}",
    "Stripe": "sk_live_{alnum:24}",
    "Supabase": "sbp_{hex:40}",
    "Tavily": "tvly-dev-{alnum:32}",
    "Telegram": "{digits:10}:AA{url:33}",
    "Terraform": "{alnum:14}.atlasv1.{url:67}",
    "Twilio": "SK{hex:32}",
    "Vault": "hvs.{url:95}",
    "W&B": "wandb_v1_{alnum:77}",
    "xAI": "xai-{alnum:80}",
}
"""Name of a vendor -> how its keys are written."""

NAMED = {
    "a password": "{alnum:16}",
    "a W&B key of old": "{hex:40}",
    "Cohere": "{alnum:40}",
    "Datadog": "{hex:32}",
    "Mistral": "{alnum:32}",
    "Together": "{hex:64}",
    "an id as a key": "{hex:8}-{hex:4}-4{hex:3}-9{hex:3}-{hex:12}",
}
"""What only its name gives away."""

LINES = (
    '+API_KEY = "{secret}"',
    "+    client = Client(base, '{secret}', retries=3)",
    "-headers = {{'Authorization': 'Bearer {secret}'}}",
    '+  "api_key": "{secret}",',
    "+token: {secret}",
    "+export SERVICE_TOKEN={secret}",
    ' curl -H "x-api-key: {secret}" https://example.org/v1',
    "+url = 'https://example.org/v1/run?limit=3&key={secret}'",
    "+git clone https://{secret}@example.org/team/project.git",
    "# the old one was {secret}, now revoked",
)

NAMED_LINES = (
    '+SERVICE_API_KEY = "{secret}"',
    '+wandb.login(key="{secret}")',
    "-headers = {{'Authorization': 'Bearer {secret}'}}",
    '+  "password": "{secret}",',
    "+client_secret: {secret}",
    "+export DB_PASSWORD={secret}",
    ' curl -H "x-api-key: {secret}" https://example.org/v1',
    "+url = 'https://example.org/v1/run?limit=3&token={secret}'",
    "+url = 'postgresql://reader:{secret}@db.example.org/plays'",
    "+python serve.py --api-key {secret} --port 8000",
)

PATHS = (
    "https://hooks.slack.com/services/T{upper:10}/B{upper:10}/{alnum:24}",
    "https://discord.com/api/webhooks/{digits:18}/{url:68}",
    "https://api.telegram.org/bot{digits:10}:AA{url:33}/sendMessage",
    "https://hooks.zapier.com/hooks/catch/{digits:7}/{lower:7}/",
    "https://files.example.org/a.bin?sv=2024-11-04&sp=r&sig={alnum:43}%3D",
    "https://bucket.example.org/a?X-Amz-Signature={hex:64}&X-Amz-Expires=60",
)
"""Addresses that are keys themselves."""


def draw(template: str, generator: random.Random) -> str:
    """The template with its bodies drawn."""

    def body(found: re.Match[str]) -> str:
        return "".join(generator.choices(ALPHABETS[found[1]], k=int(found[2])))

    return re.sub(r"\{(\w+):(\d+)\}", body, template)


def private_key(kind: str, generator: random.Random, prefix: str = "") -> list[str]:
    """The lines of a private key in PEM; ``prefix`` stands before each, as in a diff."""
    body = [draw("{base64:64}", generator) for _ in range(12)] + [draw("{base64:22}==", generator)]
    marks = [f"-----{place} {kind}PRIVATE KEY-----" for place in ("BEGIN", "END")]
    return [prefix + line for line in (marks[0], *body, marks[1])]


def planted_lines(count: int, seed: int) -> list[tuple[str, str, str]]:
    """(format, secret, a line with it): all formats in turn, each in lines of several kinds."""
    generator = random.Random(seed)
    kinds = [(name, template, LINES) for name, template in FORMATS.items()]
    kinds += [(name, template, NAMED_LINES) for name, template in NAMED.items()]
    found = []
    for number in range(count):
        name, template, lines = kinds[number % len(kinds)]
        secret = draw(template, generator)
        found.append((name, secret, generator.choice(lines).format(secret=secret)))
    return found
